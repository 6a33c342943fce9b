package main

// preview_transactionrules_test.go is what the Flow runtime and its control plane ask of a discovered schema (spec/flow-protocol.md §3.8
// to §3.10): keywords and formats it knows, and a key it can build on.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// schemaKeywords has what a schema may say, and what its values hold: a schema, schemas in a list or by name, or other things.
var schemaKeywords = func() map[string]string {
	words := map[string]string{}
	for kind, list := range map[string]string{
		"schema": "additionalProperties unevaluatedProperties propertyNames items contains unevaluatedItems if then else not",
		"list":   "allOf anyOf oneOf prefixItems",
		"named":  "$defs properties patternProperties dependentSchemas",
		"other": "$schema $id $anchor $ref $dynamicRef $dynamicAnchor $comment $vocabulary type enum const required " +
			"dependentRequired minProperties maxProperties minItems maxItems uniqueItems minContains maxContains multipleOf maximum " +
			"exclusiveMaximum minimum exclusiveMinimum minLength maxLength pattern format title description default examples " +
			"deprecated readOnly writeOnly contentEncoding contentMediaType contentSchema reduce redact secret multiline advanced " +
			"order discriminator",
	} {
		for word := range strings.FieldsSeq(list) {
			words[word] = kind
		}
	}
	return words
}()

var schemaFormats = strings.Fields("date date-time datetime time email hostname ipv4 ipv6 macaddr macaddr8 uuid duration iri uri " +
	"uri-reference iri-reference uri-template json-pointer relative-json-pointer regex integer uint32 uint64 number sha256")

// checkRuntimeRules checks a discovered schema and the collection key that goes with it.
func checkRuntimeRules(raw json.RawMessage, key []string) error {
	if _, err := compileSchema(raw); err != nil {
		return err
	}
	var root any
	if err := json.Unmarshal(raw, &root); err != nil {
		return err
	}
	if err := checkKeywords(root, ""); err != nil {
		return err
	}
	for _, pointer := range key {
		types := map[string]bool{}
		found := typesAt(root.(map[string]any), root.(map[string]any), strings.Split(pointer, "/")[1:], types)
		delete(types, "null")
		keyable := len(types) == 1 && (types["boolean"] || types["integer"] || types["string"])
		if !found || !keyable {
			return fmt.Errorf("key %s has types %v: the runtime takes one of boolean, integer and string", pointer, types)
		}
	}
	return nil
}

// checkBindings fails the test for each discovered binding that the control plane would refuse.
func checkBindings(t testing.TB, bindings []runtimeBinding) {
	t.Helper()
	for _, b := range bindings {
		if err := checkRuntimeRules(b.schema, b.key); err != nil {
			t.Errorf("collection %s: %v\n%s", b.collection, err, b.schema)
		}
	}
}

func checkKeywords(node any, path string) error {
	words, ok := node.(map[string]any)
	if _, isBool := node.(bool); isBool {
		return nil
	}
	if !ok {
		return fmt.Errorf("%s is no schema: %v", path, node)
	}
	for word, value := range words {
		kind := schemaKeywords[word]
		if kind == "" && !strings.HasPrefix(word, "x-") {
			return fmt.Errorf("%s: the runtime does not know the keyword %q", path, word)
		}
		if format, _ := value.(string); word == "format" && !slices.Contains(schemaFormats, format) {
			return fmt.Errorf("%s: the runtime does not know the format %v", path, value)
		}
		var parts []any
		switch kind {
		case "schema":
			parts = []any{value}
		case "list":
			parts, _ = value.([]any)
		case "named":
			for _, part := range value.(map[string]any) {
				parts = append(parts, part)
			}
		}
		for _, part := range parts {
			if err := checkKeywords(part, path+"/"+word); err != nil {
				return err
			}
		}
	}
	return nil
}

// typesAt adds the types that the schema gives to what the pointer's tokens lead to, and reports whether it says any.
func typesAt(root, node map[string]any, tokens []string, types map[string]bool) (found bool) {
	parts, _ := node["allOf"].([]any)
	if ref, ok := node["$ref"].(string); ok {
		for _, def := range root["$defs"].(map[string]any) {
			if "#"+def.(map[string]any)["$anchor"].(string) == ref {
				parts = append(parts, def)
			}
		}
	}
	for _, part := range parts {
		found = typesAt(root, part.(map[string]any), tokens, types) || found
	}
	if len(tokens) > 0 {
		name := strings.NewReplacer("~1", "/", "~0", "~").Replace(tokens[0])
		if properties, ok := node["properties"].(map[string]any); ok && properties[name] != nil {
			return typesAt(root, properties[name].(map[string]any), tokens[1:], types) || found
		}
		if items, ok := node["items"].(map[string]any); ok {
			return typesAt(root, items, tokens[1:], types) || found
		}
		return found
	}
	switch of := node["type"].(type) {
	case string:
		types[of] = true
	case []any:
		for _, name := range of {
			types[name.(string)] = true
		}
	default:
		return found
	}
	return true
}

func TestRuntimeRules(t *testing.T) {
	const good = `{"$defs":{"T":{"$anchor":"T","type":"object","properties":{"a/b":{"type":["string","null"],"format":"number"},` +
		`"j":{"contentMediaType":"application/json"},"n":{"type":["number","string"]},"i":{"type":"integer"}}}},"allOf":[{"$ref":"#T"}],"x-infer-schema":true}`
	for _, tc := range []struct{ from, to, key, want string }{
		{"", "", "/a~1b", ""},
		{"", "", "/i", ""},
		{"", "", "/j", "key /j has types map[]: the runtime takes one of boolean, integer and string"},
		{"", "", "/absent", "key /absent has types map[]: the runtime takes one of boolean, integer and string"},
		{"", "", "/n", "key /n has types map[number:true string:true]: the runtime takes one of boolean, integer and string"},
		{`"format":"number"`, `"format":"money"`, "/i", `/$defs/properties: the runtime does not know the format money`},
		{`"format":"number"`, `"formatted":true`, "/i", `/$defs/properties: the runtime does not know the keyword "formatted"`},
	} {
		got := ""
		if err := checkRuntimeRules(json.RawMessage(strings.Replace(good, tc.from, tc.to, 1)), []string{tc.key}); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s for %s, key %s: %q, want %q", tc.to, tc.from, tc.key, got, tc.want)
		}
	}
}
