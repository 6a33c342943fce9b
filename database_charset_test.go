package main

// database_charset_test.go captures databases of other encodings than UTF-8.
//
// Goal: what is text comes out as the server would convert it, what is not comes out as U+FFFD, and is lost nowhere and never
// the end of a capture: in values, in keys and in names, from the backfill as from the stream.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgtype"
)

// Every byte of every encoding is converted as the server does, or refused by both.
func TestCharsets(t *testing.T) {
	db := newTestDB(t)
	db.exec(`CREATE FUNCTION pg_temp.try(b bytea, encoding name) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN RETURN convert_from(b, encoding); EXCEPTION WHEN untranslatable_character THEN RETURN chr(65533); END $$`)
	const sqlEncodings = `SELECT pg_encoding_to_char(e) FROM generate_series(0, 41) e WHERE pg_encoding_max_length(e) = 1
		AND pg_encoding_to_char(e) <> 'SQL_ASCII'`
	encodings := db.query(sqlEncodings)
	if len(encodings) != len(charsetTables) {
		t.Errorf("the server has %v", encodings)
	}
	for _, row := range encodings {
		const sqlBytes = `SELECT string_agg(pg_temp.try(decode(lpad(to_hex(b), 2, '0'), 'hex'), $1), '' ORDER BY b) FROM generate_series(128, 255) b`
		if want := db.queryValue(sqlBytes, row[0]); charsetTables[row[0]] != want {
			t.Errorf("%s: %q, the server has %q", row[0], charsetTables[row[0]], want)
		}
	}
}

// Under a collation that sorts as bytes do, keys sort as the server's bytes do, not as those of UTF-8; where we do not know
// those, only the server knows the order.
func TestCharsetOrder(t *testing.T) {
	for _, c := range []struct {
		encoding, first, second string
		ordered                 bool
	}{
		{"UTF8", "а", "ю", true},
		{"KOI8R", "ю", "а", true},
		{"WIN1251", "‚", "ѓ", true},
		{"WIN1251", "\x98", "А", true},
		{"LATIN1", "é", "ü", true},
		{"SQL_ASCII", "\x98", "\xff", true},
		{"EUC_JP", "a", "b", false},
	} {
		for _, oid := range []uint32{pgtype.TextOID, pgtype.BPCharOID, pgtype.NameOID} {
			k := newScanKey([]keyColumn{{name: "k", typeOID: oid, typeKind: 'b', byteOrder: true}}, c.encoding)
			first, err1 := k.appendOrder(nil, []value{{data: []byte(c.first), kind: valueText}})
			second, err2 := k.appendOrder(nil, []value{{data: []byte(c.second), kind: valueText}})
			if err1 != nil || err2 != nil || k.ordered() != c.ordered || bytes.Compare(first, second) >= 0 {
				t.Errorf("%s: %q has %x, %q has %x, ordered %t: %v, %v", c.encoding, c.first, first, c.second, second, k.ordered(), err1, err2)
			}
		}
	}
}

// Any bytes come back as they were; those without meaning are one U+FFFD each in a document, and nothing else is.
func TestCharsetRoundTrip(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, table := range charsetTables {
		c := charsetOf(name)
		characters := []rune(table)
		for range 200 {
			text := make([]byte, random.IntN(40))
			var want []rune
			for i := range text {
				text[i] = byte(1 + random.IntN(255))
				if random.IntN(2) == 0 {
					text[i] |= 0x80
				}
				if r := rune(text[i]); r >= 128 {
					want = append(want, characters[r-128])
				} else {
					want = append(want, r)
				}
			}
			decoded := c.decode(nil, text)
			if back, err := c.encode(nil, decoded); err != nil || !bytes.Equal(back, text) {
				t.Fatalf("%s: %x is %x, and then %x, %v", name, text, decoded, back, err)
			}
			if got := string(appendValidUTF8(nil, decoded)); got != string(want) {
				t.Fatalf("%s: %x is %q, want %q", name, text, got, string(want))
			}
			if got := c.order(decoded); !bytes.Equal(got, text) {
				t.Fatalf("%s: %x is compared as %x", name, text, got)
			}
		}
	}
	if _, err := charsetOf("WIN1251").encode(nil, []byte("aé")); sqlState(err) != "22P05" {
		t.Errorf("a character that the encoding has not: %v", err)
	}
	for _, encoding := range []string{"UTF8", "SQL_ASCII", "EUC_JP"} {
		if charsetOf(encoding) != nil {
			t.Errorf("%s has a charset", encoding)
		}
	}
}

// What a connection with a charset reads does not depend on the pieces that it comes in, and messages that are not what they
// say pass as they are.
func TestCharsetMessages(t *testing.T) {
	c := charsetOf("WIN1251")
	message := func(kind byte, body ...string) string {
		text := strings.Join(body, "")
		return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(text)))) + text
	}
	value := func(text string) string { return string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text }
	field := strings.Repeat("\xc0", 18)
	from := message('T', "\x00\x02", "\xcf\x00", field, "b\x00", field) +
		message('D', "\x00\x03", value("\xcf\x98"), "\xff\xff\xff\xff", value("")) + message('D', "\x00\x01", value("ascii")) +
		message('E', "S\xcf\x00", "M\x98\x00", "\x00") + message('S', "name\x00", "\xcf\x00") + message('Z', "I") +
		message('D', "\x00\x02", value("\xcf")) // lacks one
	want := message('T', "\x00\x02", "П\x00", field, "b\x00", field) +
		message('D', "\x00\x03", value("П\x98"), "\xff\xff\xff\xff", value("")) + message('D', "\x00\x01", value("ascii")) +
		message('E', "SП\x00", "M\x98\x00", "\x00") + message('S', "name\x00", "П\x00") + message('Z', "I") +
		message('D', "\x00\x02", value("\xcf"))
	for name, in := range map[string]io.Reader{
		"whole": strings.NewReader(from), "bytes": iotest.OneByteReader(strings.NewReader(from)),
		"halves": iotest.HalfReader(strings.NewReader(from)), "with the end": iotest.DataErrReader(strings.NewReader(from)),
	} {
		got, err := io.ReadAll(&rowFilter{in: in, charset: c})
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, want %q: %v", name, got, want, err)
		}
	}
	var out bytes.Buffer
	w := &charsetWriter{out: &out, charset: c}
	start := "\x00\x00\x00\x10\x00\x03\x00\x00user\x00\xd0\x9f\x00"
	for _, part := range [][2]string{
		{start, start},
		{message('Q', "П\x98\x00") + message('S'), message('Q', "\xcf\x98\x00") + message('S')},
		{
			message('P', "\x00", "П\x00", "\x00\x00") + message('B', "\x00\x00", "\x00\x02", "\x00\x00", "\x00\x01", "\x00\x02", value("П"), value("П"), "\x00\x00"),
			message('P', "\x00", "\xcf\x00", "\x00\x00") + message('B', "\x00\x00", "\x00\x02", "\x00\x00", "\x00\x01", "\x00\x02", value("\xcf"), value("П"), "\x00\x00"),
		},
	} {
		out.Reset()
		if n, err := w.Write([]byte(part[0])); n != len(part[0]) || err != nil || out.String() != part[1] {
			t.Errorf("%q is sent as %q, want %q: %d, %v", part[0], out.String(), part[1], n, err)
		}
	}
	if _, err := w.Write([]byte(message('Q', "日\x00"))); sqlState(err) != "22P05" {
		t.Errorf("a query with another character: %v", err)
	}
}

// Bytes without meaning in values and keys come out from the backfill and from the stream, and stop nothing.
func TestCharsetCaptured(t *testing.T) {
	for _, c := range []struct{ encoding, bad, good, text string }{
		{"WIN1251", "\x98", "\xcf\xf0\xe8", "При"},
		{"WIN1252", "\x81", "\xe9\x80", "é€"},
		{"WIN1253", "\xd2", "\xc1\xdc", "Αά"}, // followed by \x81, it would look like a character in UTF-8
		{"ISO_8859_6", "\xff", "\xc7", "ا"},
	} {
		t.Run(c.encoding, func(t *testing.T) {
			if testing.Short() && c.encoding != "WIN1253" {
				t.Skip("one encoding a run")
			}
			db := goldenDatabase(t, c.encoding)
			db.script("SET client_encoding = 'SQL_ASCII'; SET search_path = public")
			names := strings.NewReplacer("?", c.bad, "!", c.good)
			script := func(sql string) { t.Helper(); db.script(names.Replace(sql)) }
			script(`CREATE TYPE types.mood AS ENUM ('!', 'sad?');
CREATE TABLE types."!" (k text COLLATE "C" PRIMARY KEY, "!v" text, c char(5), j json, b jsonb, a text[], e types.mood, ch "char");
CREATE TABLE types.locale (k varchar PRIMARY KEY, v text); ALTER TABLE types.locale REPLICA IDENTITY FULL;
CREATE TABLE types.moods (k types.mood PRIMARY KEY, v text);
INSERT INTO types."!" SELECT '!' || chr(g) || '?', 'x?y!', '?!', '"?!"', '{"?": "!"}', ARRAY['?', '!', '{"'], 'sad?', NULL FROM generate_series(97, 122) g;
INSERT INTO types.locale VALUES ('?', '?'), ('!', '!'), ('a?', '?'), ('z', repeat('!?', 1000000));
INSERT INTO types.moods VALUES ('!', '?'), ('sad?', '!')`)
			script(`GRANT SELECT ON ALL TABLES IN SCHEMA types TO flow_capture; GRANT USAGE ON SCHEMA types TO flow_capture;
ALTER PUBLICATION ` + quoteIdent(db.publication) + ` ADD TABLE types."!", types.locale, types.moods`)
			var whole map[string]any
			if err := json.Unmarshal(db.config(), &whole); err != nil {
				t.Fatal(err)
			}
			whole["advanced"].(map[string]any)["backfill_chunk_size"] = 3
			r := startRuntime(t, runtimeOptions{config: whole, tables: "types.*"})
			r.waitStreaming()
			script(`INSERT INTO types."!" VALUES ('!A?', 'x?y!', '?!', '"?!"', '{"?": "!"}', ARRAY['?', '!', '{"'], 'sad?', NULL);
UPDATE types."!" SET "!v" = '?' WHERE k = '!b?'; DELETE FROM types."!" WHERE k = '!c?'; UPDATE types."!" SET k = '?' || k WHERE k = '!d?';
UPDATE types.locale SET v = 'small' WHERE k = '?'; UPDATE types.locale SET k = 'y?' WHERE k = 'z';
UPDATE types.moods SET v = 'new' WHERE k = 'sad?'`)
			r.waitDocuments(26 + 4 + 2 + 5 + 3 + 1)
			bad, long := "\ufffd", strings.Repeat(c.text+"\ufffd", 1000000)
			documents := map[string][]string{}
			for _, d := range r.documents() {
				var doc map[string]any
				if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
					t.Fatal(err)
				}
				op := doc["_meta"].(map[string]any)["op"]
				if v, _ := doc["v"].(string); v == long {
					doc["v"] = "long"
				} else if len(v) > 100 {
					t.Errorf("a value of %d bytes, want %d", len(v), len(long))
					doc["v"] = "other"
				}
				documents[d.table] = append(documents[d.table], fmt.Sprint(op, " ", doc["k"], " ", doc["v"], doc[c.text+"v"]))
			}
			x := "x" + bad + "y" + c.text
			var first []string
			for k := 'a'; k <= 'z'; k++ {
				first = append(first, "c "+c.text+string(k)+bad+" <nil>"+x)
			}
			want := map[string][]string{
				"types." + c.text: append(first, "c "+c.text+"A"+bad+" <nil>"+x, "u "+c.text+"b"+bad+" <nil>"+bad, "d "+c.text+"c"+bad+" <nil> <nil>",
					"d "+c.text+"d"+bad+" <nil> <nil>", "c "+bad+c.text+"d"+bad+" <nil>"+x),
				"types.locale": {"u " + bad + " small<nil>", "d z long<nil>", "c y" + bad + " long<nil>"},
				"types.moods":  {"c " + c.text + " " + bad + "<nil>", "c sad" + bad + " " + c.text + "<nil>", "u sad" + bad + " new<nil>"},
			}
			backfilled := documents["types.locale"][:4]
			documents["types.locale"] = documents["types.locale"][4:]
			slices.Sort(backfilled)
			if locale := []string{"c " + c.text + " " + c.text + "<nil>", "c a" + bad + " " + bad + "<nil>", "c z long<nil>", "c " + bad + " " + bad + "<nil>"}; !slices.Equal(
				slices.Sorted(slices.Values(locale)), backfilled) {
				t.Errorf("backfilled %q, want %q", backfilled, locale)
			}
			for _, table := range slices.Sorted(maps.Keys(want)) {
				if !slices.Equal(documents[table], want[table]) {
					t.Errorf("%s:\n%q, want\n%q", table, documents[table], want[table])
				}
			}
			for _, d := range r.documents() {
				if d.table == "types."+c.text {
					for _, part := range []string{
						fmt.Sprintf(`"a":[%q,%q,"{\""]`, bad, c.text), fmt.Sprintf(`"b":{%q:%q}`, bad, c.text), fmt.Sprintf(`"j":%q`, bad+c.text), `"e":"sad` + bad + `"`,
					} {
						if !strings.Contains(d.doc, part) {
							t.Errorf("%s lacks %s", d.doc, part)
						}
					}
					break
				}
			}
		})
	}
}

// Names that are no text are left out with the reason, whatever they would be spelled like otherwise.
func TestNamesWithoutText(t *testing.T) {
	for encoding, bad := range map[string]string{"SQL_ASCII": "\xe9", "WIN1251": "\x98"} {
		t.Run(encoding, func(t *testing.T) {
			db := goldenDatabase(t, encoding)
			db.script("SET client_encoding = 'SQL_ASCII'")
			db.script(strings.ReplaceAll(`CREATE SCHEMA bad; CREATE SCHEMA "bad?"; GRANT USAGE ON SCHEMA bad TO flow_capture;
CREATE TABLE bad."caf?" (id int PRIMARY KEY);
CREATE TABLE "bad?".t (id int PRIMARY KEY);
CREATE TABLE bad.columns (id int PRIMARY KEY, "x?" text, "x??" text, y text);
CREATE TABLE bad.keyed ("k?" int PRIMARY KEY, a text);
CREATE TABLE bad.parent (id int, a text, PRIMARY KEY (id)) PARTITION BY LIST (id);
CREATE TABLE bad."leaf?" PARTITION OF bad.parent DEFAULT;
INSERT INTO bad.columns VALUES (1, 'lost', 'lost', 'kept'); INSERT INTO bad.keyed VALUES (1, 'a'); INSERT INTO bad.parent VALUES (1, 'a');
GRANT SELECT ON ALL TABLES IN SCHEMA bad TO flow_capture`, "?", bad))
			db.script(strings.ReplaceAll(`ALTER PUBLICATION `+quoteIdent(db.publication)+
				` ADD TABLE bad."caf?", "bad?".t, bad.columns, bad.keyed, bad.parent`, "?", bad))
			r := startRuntime(t, runtimeOptions{config: db.config()})
			r.waitStreaming()
			db.script(`INSERT INTO bad.columns VALUES (2, 'lost', 'lost', 'kept'); INSERT INTO bad.keyed VALUES (2, 'a');
UPDATE bad.columns SET y = 'changed' WHERE id = 1; INSERT INTO bad.parent VALUES (2, 'a')`)
			r.waitDocuments(7)
			got := map[string][]string{}
			for _, d := range r.documents() {
				var doc map[string]any
				if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
					t.Fatal(err)
				}
				delete(doc, "_meta")
				text, _ := json.Marshal(doc)
				got[d.table] = append(got[d.table], string(text))
			}
			want := map[string][]string{
				"bad.columns": {`{"id":1,"y":"kept"}`, `{"id":2,"y":"kept"}`, `{"id":1,"y":"changed"}`},
				"bad.keyed":   {`{"a":"a"}`, `{"a":"a"}`},
				"bad.parent":  {`{"a":"a","id":1}`, `{"a":"a","id":2}`},
			}
			delete(got, db.watermarks.String())
			for table, docs := range want {
				if !slices.Equal(got[table], docs) {
					t.Errorf("%s: %q, want %q", table, got[table], docs)
				}
			}
			if len(got) != len(want) {
				t.Errorf("captured are %v", got)
			}
			for _, said := range []string{
				"2 table whose name is no text in the database's encoding (rename it to capture it) (\"bad.caf",
				"column \"x",
				"of bad.columns is left out: its name is no text in the database's encoding. Rename it to capture it",
				"of bad.keyed is left out: its name is no text",
			} {
				if !strings.Contains(r.stderr(), said) {
					t.Errorf("nothing said of %s", said)
				}
			}
		})
	}
}

// A row that is cut as it comes in is that of the converted row, whatever pieces it comes in.
func TestCharsetCut(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	c := charsetOf("WIN1253")
	classes := []cutClass{{kind: cutText}, {kind: cutJSON}, {kind: cutArray, element: cutText, delimiter: ','}, {kind: cutNever}, {kind: cutText, key: true}}
	text := func() string {
		var b strings.Builder
		for range random.IntN(900) {
			b.WriteString([]string{"a", "\xc1", "\xd2", "\x81", "\xdc", "\x80"}[random.IntN(6)])
		}
		return b.String()
	}
	cut := func(row []byte, c *charset) (string, int) {
		r := rowCut{
			pieces: pieces{in: iotest.HalfReader(bytes.NewReader(row)), left: len(row), room: make([]byte, 1+random.IntN(300)+4)},
			rule:   cutRule{value: 400, bound: 2000}, charset: c,
		}
		level, err := r.row(classes)
		if err != nil {
			t.Fatal(err)
		}
		return string(r.dst), level
	}
	raised := 0
	for range 2000 {
		values := []string{text(), `"` + text() + `"`, `{` + text() + `,"` + text() + `"}`, text(), text()}
		raw := binary.BigEndian.AppendUint16(nil, uint16(len(values)))
		converted := slices.Clone(raw)
		for _, v := range values {
			raw = append(binary.BigEndian.AppendUint32(raw, uint32(len(v))), v...)
			decoded := c.decode(nil, []byte(v))
			converted = append(binary.BigEndian.AppendUint32(converted, uint32(len(decoded))), decoded...)
		}
		got, level := cut(raw, c)
		want, wantLevel := cut(converted, nil)
		if got != want || level != wantLevel {
			t.Fatalf("%x is cut to\n%x at level %d, want\n%x at %d", raw, got, level, want, wantLevel)
		}
		raised += level
	}
	if raised == 0 {
		t.Error("no row was cut for its own sake")
	}
}
