package main

// preview_spec.go owns what the stand-in runtime is given, its version, its task and the bindings of that, and the task as it would
// have built that from a catalog: capture and collection specs with every template filled, and the names of binding states.
//
// Invariant: what captureSpec and collectionSpec make passes the Validate of the protocol package.

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	pb "go.gazette.dev/core/broker/protocol"
	consumer "go.gazette.dev/core/consumer/protocol"
)

const (
	stopGrace          = 5 * time.Second // between stdin EOF and SIGKILL, where the runtime gives any
	maxApplies         = 3               // of one spec, while Apply returns a state
	driverVersion      = "ffffffffffffffff"
	driverIntervalSecs = 300
)

// runtimeVersion is which of the two runtimes the driver stands in for.
type runtimeVersion uint8

const (
	runtimeV2 runtimeVersion = iota // what captures run on
	runtimeV1                       // what flowctl preview runs on, and captures whose label says so
)

func (v runtimeVersion) String() string {
	if v == runtimeV1 {
		return "v1"
	}
	return "v2"
}

// runtimeDriver says how the connector is started and what every request carries. Its methods each start one process,
// which is asked to stop when their context is cancelled.
type runtimeDriver struct {
	command  []string // empty: this executable
	env      []string // added to our own environment, after what the driver sets
	codec    codec
	runtime  runtimeVersion
	limits   *transactionLimits // nil: those of the runtime
	indirect bool               // specs are sent in the indirect form, with a table of collections
	task     string
	config   json.RawMessage
	logLevel string                 // empty: info
	onLog    func(log connectorLog) // called in order by one goroutine per process; may be nil
	onStart  func(pid int)          // called for the process that captures; may be nil
	// encode frames the requests; nil is appendRequest, or appendIndirectRequest where specs are indirect.
	encode func(dst []byte, request *pc.Request, c codec) ([]byte, error)
	// wrap comes between the output of the process that captures and us; may be nil.
	wrap func(io.Reader) io.Reader
}

// runtimeBinding is one binding as a task has it in its model.
type runtimeBinding struct {
	resource   json.RawMessage
	collection string // name below the task's prefix
	key        []string
	schema     json.RawMessage // write schema; empty: {}
	backfill   uint32
}

// connectorLog is one line that the connector wrote to stderr.
type connectorLog struct {
	level   string // empty: the line was no JSON log record
	message string
	status  bool   // a connectorStatus event
	fields  string // the other fields, as " name=value", sorted
	line    string // as it was written
}

// transactionLimits say when a transaction closes.
type transactionLimits struct {
	bytes     int           // captured; no more checkpoints are folded in
	least     time.Duration // it stays open this long, even with nothing to read
	most      time.Duration // and is not open longer, if it has a checkpoint; 0: no limit
	synthetic int           // bytes of documents behind the last checkpoint, which are then committed without one; 0: no limit
}

func (v runtimeVersion) transactionLimits() transactionLimits {
	if v == runtimeV1 {
		return transactionLimits{bytes: 32 << 20}
	}
	return transactionLimits{bytes: 64 << 20, most: time.Second, synthetic: 512 << 20}
}

// stateKey is the runtime's name for a binding's state.
func stateKey(path []string, backfill uint32) string {
	var key strings.Builder
	for _, c := range strings.Join(path, "/") {
		if unicode.IsLetter(c) || unicode.IsNumber(c) || strings.ContainsRune("-_+.=", c) {
			key.WriteRune(c)
			continue
		}
		for _, b := range []byte(string(c)) {
			fmt.Fprintf(&key, "%%%02X", b)
		}
	}
	if backfill != 0 {
		fmt.Fprintf(&key, ".v%d", backfill)
	}
	return key.String()
}

// labelled is the spec with the label of the driver's runtime: the spec itself if it has it already.
func (d *runtimeDriver) labelled(capture *pf.CaptureSpec) *pf.CaptureSpec {
	value := strconv.FormatBool(d.runtime == runtimeV2)
	if capture.ShardTemplate.LabelSet.ValueOf(labelRuntime) == value {
		return capture
	}
	spec, template := *capture, *capture.ShardTemplate
	template.LabelSet = pb.LabelSet{Labels: slices.Clone(template.LabelSet.Labels)}
	template.LabelSet.SetValue(labelRuntime, value)
	spec.ShardTemplate = &template
	return &spec
}

// captureSpec is the task without bindings, templates filled as the runtime fills them.
func (d *runtimeDriver) captureSpec() *pf.CaptureSpec {
	shard := "capture/" + d.task + "/" + driverVersion
	return d.labelled(&pf.CaptureSpec{
		Name:            pf.Capture(d.task),
		ConnectorType:   pf.CaptureSpec_LOCAL,
		ConfigJson:      d.config,
		IntervalSeconds: driverIntervalSecs,
		ShardTemplate: &consumer.ShardSpec{
			Id:                consumer.ShardID(shard),
			RecoveryLogPrefix: "recovery",
			HintPrefix:        "/estuary/flow/hints",
			HintBackups:       2,
			MaxTxnDuration:    time.Second,
			RingBufferSize:    65536,
			ReadChannelSize:   4096,
			LabelSet: pb.MustLabelSet(
				"app.gazette.dev/managed-by", "estuary.dev/flow",
				"estuary.dev/build", driverVersion,
				"estuary.dev/log-level", "info",
				"estuary.dev/task-name", d.task,
				"estuary.dev/task-type", "capture",
			),
		},
		RecoveryLogTemplate: &pb.JournalSpec{
			Name:        pb.Journal("recovery/" + shard),
			Replication: 3,
			LabelSet:    pb.MustLabelSet("app.gazette.dev/managed-by", "estuary.dev/flow"),
			Fragment: pb.JournalSpec_Fragment{
				Length: 1 << 28, CompressionCodec: pb.CompressionCodec_SNAPPY, RefreshInterval: 5 * time.Minute,
			},
			Flags: pb.JournalSpec_O_RDWR,
		},
	})
}

func (d *runtimeDriver) collectionSpec(b runtimeBinding) (pf.CollectionSpec, error) {
	prefix := d.task[:strings.LastIndexByte(d.task, '/')+1]
	name := prefix + b.collection
	schema := b.schema
	if len(schema) == 0 {
		schema = json.RawMessage("{}")
	}
	projections, err := projectionsOf(schema, b.key)
	if err != nil {
		return pf.CollectionSpec{}, fmt.Errorf("collection %s: %w", name, err)
	}
	return pf.CollectionSpec{
		Name:            pf.Collection(name),
		Key:             b.key,
		UuidPtr:         "/_meta/uuid",
		Projections:     projections,
		AckTemplateJson: fmt.Appendf(nil, `{"_meta":{"ack":true,"uuid":"%s"}}`, pf.DocumentUUIDPlaceholder),
		WriteSchemaJson: schema,
		PartitionTemplate: &pb.JournalSpec{
			Name:        pb.Journal(name + "/" + driverVersion),
			Replication: 3,
			LabelSet: pb.MustLabelSet(
				"app.gazette.dev/managed-by", "estuary.dev/flow",
				"content-type", "application/x-ndjson",
				"estuary.dev/build", driverVersion,
				"estuary.dev/collection", name,
			),
			Fragment: pb.JournalSpec_Fragment{
				Length:           1 << 29,
				CompressionCodec: pb.CompressionCodec_GZIP,
				FlushInterval:    24 * time.Hour,
				RefreshInterval:  5 * time.Minute,
			},
			Flags:         pb.JournalSpec_O_RDWR,
			MaxAppendRate: 4 << 20,
		},
	}, nil
}

// projectionsOf lists the projections of a collection: the runtime's own, the key and every location of the schema,
// ascending by field.
func projectionsOf(schema json.RawMessage, key []string) ([]pf.Projection, error) {
	var root schemaNode
	if err := json.Unmarshal(schema, &root); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	fields := map[string]pf.Projection{
		"flow_document": {Field: "flow_document", Inference: pf.Inference{
			Types: []string{"object"}, Exists: pf.Inference_MUST,
		}},
		"flow_published_at": {Field: "flow_published_at", Ptr: "/_meta/uuid", Inference: pf.Inference{
			Types:   []string{"string"},
			Exists:  pf.Inference_MUST,
			String_: &pf.Inference_String{Format: "date-time", ContentEncoding: "uuid"},
		}},
		"_meta/flow_truncated": {Field: "_meta/flow_truncated", Ptr: "/_meta/flow_truncated", Inference: pf.Inference{
			Types: []string{"boolean"}, Exists: pf.Inference_MUST,
		}},
	}
	root.walk(&root, "", 12, func(pointer string, types []string) {
		field := strings.TrimPrefix(pointer, "/")
		if _, ok := fields[field]; !ok && field != "" {
			fields[field] = pf.Projection{
				Field: field, Ptr: pointer, Inference: pf.Inference{Types: types, Exists: pf.Inference_MAY},
			}
		}
	})
	for _, pointer := range key {
		p := fields[strings.TrimPrefix(pointer, "/")]
		p.Field, p.Ptr, p.IsPrimaryKey = strings.TrimPrefix(pointer, "/"), pointer, true
		p.Inference.Exists = pf.Inference_MUST
		fields[p.Field] = p
	}
	projections := make([]pf.Projection, 0, len(fields))
	for _, p := range fields {
		projections = append(projections, p)
	}
	slices.SortFunc(projections, func(a, b pf.Projection) int { return strings.Compare(a.Field, b.Field) })
	return projections, nil
}

// schemaNode is the part of a JSON schema that says which locations there are.
type schemaNode struct {
	Anchor     string                 `json:"$anchor"`
	Ref        string                 `json:"$ref"`
	Defs       map[string]*schemaNode `json:"$defs"`
	AllOf      []*schemaNode          `json:"allOf"`
	Properties map[string]*schemaNode `json:"properties"`
	Type       stringOrList           `json:"type"`
}

type stringOrList []string

func (l *stringOrList) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*l = stringOrList{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(l))
}

// walk visits every location; depth bounds references that lead back to themselves.
func (n *schemaNode) walk(root *schemaNode, pointer string, depth int, visit func(pointer string, types []string)) {
	if n == nil || depth == 0 {
		return
	}
	if n.Ref != "" {
		name := strings.TrimPrefix(strings.TrimPrefix(n.Ref, "#"), "/$defs/")
		for defName, def := range root.Defs {
			if def.Anchor == name || defName == name {
				def.walk(root, pointer, depth-1, visit)
			}
		}
	}
	for _, part := range n.AllOf {
		part.walk(root, pointer, depth-1, visit)
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	for name, property := range n.Properties {
		property.walk(root, pointer+"/"+escape.Replace(name), depth-1, visit)
	}
	if n.Ref == "" && n.AllOf == nil {
		visit(pointer, n.Type)
	}
}
