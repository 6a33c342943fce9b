package main

// preview.go is the binary as a person's tool: help, spec, discover and preview (verify has verify.go). Preview runs the connector as the Flow
// runtime would and prints what it captures; what it keeps of that is in preview_sink.go.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
	"gopkg.in/yaml.v3"
)

const previewHelp = `usage: source-postgres preview --config FILE [flags]

Starts the connector as the Flow runtime would, binds the discovered tables, and prints one line per document.
Ctrl-C stops it. With --state the next run resumes where this one was committed. Lines on stdout can be repeated after
a kill -9 between printing and saving the state; with --output the file is cut back to what the state says, so that it
holds every document exactly once.

`

// usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

// commandFlags are the flags of every command.
type commandFlags struct {
	*flag.FlagSet
	config    string
	codec     string
	logLevel  string
	connector string
}

func newCommandFlags(name, help string) *commandFlags {
	f := &commandFlags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError)}
	f.SetOutput(io.Discard)
	f.Usage = func() {
		fmt.Print(help, "flags:\n")
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
	}
	return f
}

// addConnector adds the flags of a command that starts the connector.
func (f *commandFlags) addConnector() {
	f.StringVar(&f.codec, "codec", "", "the protocol's `codec`: proto or json (default what FLOW_RUNTIME_CODEC says, else proto)")
	f.StringVar(&f.logLevel, "log-level", "", "the connector's log `level`: error, warn, info, debug or trace "+
		"(default what LOG_LEVEL says, else info)")
	f.StringVar(&f.connector, "connector", "", "run this `executable` instead of this one")
}

// parse parses args and returns a driver for them.
func (f *commandFlags) parse(args []string, needConfig bool) (*runtimeDriver, error) {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, usageError(f.Name() + ": " + err.Error())
	}
	if f.NArg() > 0 {
		return nil, usageError(f.Name() + ": unexpected argument " + f.Arg(0))
	}
	d := &runtimeDriver{task: "preview/source-postgres", config: json.RawMessage("{}")}
	if f.connector != "" {
		d.command = []string{f.connector}
	}
	if err := f.apply(d); err != nil {
		return nil, usageError(f.Name() + ": " + err.Error())
	}
	if !needConfig {
		return d, nil
	}
	if f.config == "" {
		return nil, usageError(f.Name() + ": --config is missing: the endpoint config, a YAML or JSON file")
	}
	var err error
	d.config, err = readConfig(f.config)
	return d, err
}

// apply has the driver do what the flags say of codec and logs, and without them the variables that the connector goes by.
func (f *commandFlags) apply(d *runtimeDriver) (err error) {
	level, name := f.logLevel, "--log-level"
	if level == "" {
		level, name = os.Getenv("LOG_LEVEL"), "LOG_LEVEL"
	}
	if _, err := parseLogLevel(name, level); err != nil {
		return err
	}
	if err := setUpLogging(os.Getenv("LOG_FORMAT"), level); err != nil {
		return err
	}
	d.logLevel = level
	switch f.codec {
	case "":
		d.codec, err = parseCodec(os.Getenv("FLOW_RUNTIME_CODEC"))
	case "proto":
	case "json":
		d.codec = codecJSON
	default:
		err = errors.New("--codec is proto or json, not " + f.codec)
	}
	return err
}

func (f *commandFlags) addConfig() {
	f.StringVar(&f.config, "config", "", "the endpoint config, a YAML or JSON `file`, - for stdin")
}

// readConfig reads a YAML or JSON file, or stdin for -, as JSON.
func readConfig(path string) (json.RawMessage, error) {
	var raw []byte
	var err error
	if path == "-" {
		path = "stdin"
		raw, err = io.ReadAll(os.Stdin)
	} else {
		raw, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	raw = bytes.TrimPrefix(raw, []byte("\ufeff"))
	if trimmed := bytes.TrimSpace(raw); json.Valid(trimmed) && trimmed[0] == '{' { // YAML knows other escapes
		return trimmed, nil
	}
	var document map[string]any
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, fmt.Errorf("%s: %w. A text with characters that YAML knows otherwise, such as a password with : # @ %% { } or a comma, "+
			"must be in single quotes", path, err)
	}
	if document == nil {
		return nil, fmt.Errorf("%s: empty, want the endpoint config", path)
	}
	config, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

func specCommand(ctx context.Context, args []string) error {
	f := newCommandFlags("spec", "usage: source-postgres spec [flags]\n\nPrints the connector's specification as JSON.\n\n")
	f.addConnector()
	d, err := f.parse(args, false)
	if err != nil {
		return err
	}
	d.onLog = newConsole(os.Stderr, os.Getenv("LOG_FORMAT")).log
	spec, err := d.spec(ctx)
	if err != nil {
		return err
	}
	text, err := new(jsonpb.Marshaler).MarshalToString(spec)
	if err != nil {
		return err
	}
	return printIndented(os.Stdout, []byte(text))
}

func printIndented(w io.Writer, raw []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	_, err := w.Write(out.Bytes())
	return err
}

func discoverCommand(ctx context.Context, args []string) error {
	f := newCommandFlags("discover",
		"usage: source-postgres discover --config FILE [flags]\n\nLists the tables that can be captured.\n\n")
	f.addConfig()
	f.addConnector()
	asJSON := f.Bool("json", false, "print the whole Discovered response, schemas included")
	d, err := f.parse(args, true)
	if err != nil {
		return err
	}
	d.onLog = newConsole(os.Stderr, os.Getenv("LOG_FORMAT")).log
	discovered, err := d.discover(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		text, err := new(jsonpb.Marshaler).MarshalToString(discovered)
		if err != nil {
			return err
		}
		return printIndented(os.Stdout, []byte(text))
	}
	if err := printTables(os.Stdout, discovered.Bindings); err != nil || len(d.command) > 0 {
		return err
	}
	return tellUnready(ctx, d, discovered.Bindings)
}

// tellUnready says on stderr what a capture of the tables would be refused for.
func tellUnready(ctx context.Context, d *runtimeDriver, bindings []*pc.Response_Discovered_Binding) error {
	var tables []tableName
	for _, b := range bindings {
		name, _, err := tableOfResource(b.ResourceConfigJson)
		if err != nil {
			return err
		}
		tables = append(tables, name)
	}
	warnings, err := unready(ctx, d.config, tables)
	for _, warning := range warnings {
		d.onLog(connectorLog{level: "warning", message: warning})
	}
	if err != nil {
		d.onLog(connectorLog{level: "warning", message: "a capture could not start yet: " + err.Error()})
	}
	return nil
}

// printTables prints one line per discovered table.
func printTables(w io.Writer, bindings []*pc.Response_Discovered_Binding) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tKEY\tMODE")
	for _, b := range bindings {
		name, mode, err := tableOfResource(b.ResourceConfigJson)
		if err != nil {
			return err
		}
		key := strings.Join(columnsOfKey(b.Key), ", ")
		switch {
		case mode == modeKeyless:
			key = "(none)"
		case b.IsFallbackKey:
			key += " (unique index)"
		}
		if mode == modeAutomatic {
			mode = "automatic"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", name, key, mode)
	}
	return table.Flush()
}

func previewCommand(ctx context.Context, args []string) error {
	f := newCommandFlags("preview", previewHelp)
	f.addConfig()
	f.addConnector()
	var o previewOptions
	f.StringVar(&o.tables, "tables", "",
		"capture only tables that match one of these comma-separated `patterns`, such as public.* (default all)")
	f.StringVar(&o.mode, "mode", "", "backfill `mode` of every table with a key: Normal, Precise or \"Only Changes\"")
	f.UintVar(&o.backfill, "backfill", 0, "backfill `counter` of every table; a higher one backfills again")
	f.StringVar(&o.stateFile, "state", "", "keep the state in this `file`, and resume from it")
	f.StringVar(&o.outputFile, "output", "", "append the documents to this `file` instead of stdout, each exactly once")
	f.BoolVar(&o.json, "json", false, `print whole documents, as ["schema.table",{…}]`)
	f.BoolVar(&o.outputState, "output-state", false,
		`with --json, end each checkpoint with its state patch, as ["connectorState",{…}]`)
	f.BoolVar(&o.exitWhenCaughtUp, "exit-when-caught-up", false, "stop when all there is has been captured")
	f.DurationVar(&o.untilIdle, "until-idle", 0, "stop after streaming without a document for this `duration`")
	f.BoolVar(&o.restart, "restart", false, "start the connector again from the committed state whenever it ends")
	f.DurationVar(&o.killEvery, "kill-every", 0,
		"kill -9 the connector each time this `duration` has passed, and start it again: shows that nothing is lost")
	f.StringVar(&o.runtime, "runtime", "v2", "stand in for this `version` of the Flow runtime: v2, on which captures run, or v1")
	f.BoolVar(&o.indirect, "indirect-specs", false, "send specs in the form of newer runtimes, with a table of linked collections")
	d, err := f.parse(args, true)
	if err != nil {
		return err
	}
	d.indirect = o.indirect
	switch o.runtime {
	case "v2":
	case "v1":
		d.runtime = runtimeV1
	default:
		return usageError("preview: --runtime is v1 or v2, not " + o.runtime)
	}
	if o.outputState && !o.json {
		return usageError("preview: --output-state goes with --json")
	}
	if _, err := tablePatterns("preview", o.tables); err != nil {
		return err
	}
	console := newConsole(os.Stderr, os.Getenv("LOG_FORMAT"))
	d.onLog = console.log
	d.onStart = func(pid int) { console.note(fmt.Sprintf("connector started, pid %d", pid)) }
	if o.exitWhenCaughtUp {
		d.env = append(d.env, "SHUTDOWN_AFTER_POLLING=yes")
	}
	sink, err := newPreviewSink(&o, console)
	if err != nil {
		return err
	}
	defer sink.close()
	return preview(ctx, d, &o, sink, console)
}

// preview discovers, validates, and runs sessions until the connector ends or ctx does.
func preview(ctx context.Context, d *runtimeDriver, o *previewOptions, sink *previewSink, console *console) error {
	discovered, err := d.discover(ctx)
	if err != nil {
		return err
	}
	bindings, err := previewBindings(discovered.Bindings, o)
	if err != nil {
		patterns, _ := tablePatterns("preview", o.tables)
		if why := whyNotOffered(ctx, d.config, patterns); why != "" {
			err = fmt.Errorf("%w. Left out of discovery:\n  %s", err, why)
		}
		return err
	}
	capture, err := d.validate(ctx, bindings, nil)
	if err != nil {
		return err
	}
	sink.bind(capture)

	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() { console.watch(finished, o.untilIdle, cancel) })
	defer watcher.Wait()
	defer close(finished)

	for {
		err := previewSession(stop, d, capture, sink)
		switch {
		case sink.failed.Load() != nil:
			return *sink.failed.Load()
		case stop.Err() != nil:
			return nil
		case err == nil && o.exitWhenCaughtUp:
			return nil
		case err == nil && !o.restart && o.killEvery == 0:
			console.note("the connector ended by itself")
			return nil
		case !o.restart && o.killEvery == 0:
			return err
		}
		reason := "it exited"
		if err != nil {
			reason = err.Error()
			var exit *connectorExit
			if errors.As(err, &exit) {
				reason = exit.status
			}
		}
		console.note("connector ended (" + reason + "), starting it again from the committed state")
		if err := sink.rollback(); err != nil {
			return err
		}
		select {
		case <-stop.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// previewSession is one capture, and the Apply ahead of it.
func previewSession(ctx context.Context, d *runtimeDriver, capture *pf.CaptureSpec, sink *previewSink) error {
	state, err := d.apply(ctx, capture, sink.applied, sink.state)
	sink.state = state
	if err != nil {
		return err
	}
	sink.applied = capture
	s, err := d.open(ctx, capture, sink.state, sink)
	if err != nil {
		return err
	}
	if every := sink.options.killEvery; every > 0 {
		defer time.AfterFunc(every, s.kill).Stop()
	}
	return s.run()
}

// previewBindings makes the task's bindings of what was discovered.
func previewBindings(discovered []*pc.Response_Discovered_Binding, o *previewOptions) ([]runtimeBinding, error) {
	patterns, err := tablePatterns("preview", o.tables)
	if err != nil {
		return nil, err
	}
	var bindings []runtimeBinding
	for _, b := range discovered {
		table, mode, err := tableOfResource(b.ResourceConfigJson)
		if err != nil {
			return nil, err
		}
		wanted := func(p tablePattern) bool { return p.matches(table) }
		if patterns != nil && !slices.ContainsFunc(patterns, wanted) {
			continue
		}
		resource := b.ResourceConfigJson
		if o.mode != "" && mode != modeKeyless {
			var fields map[string]any
			if err := json.Unmarshal(resource, &fields); err != nil {
				return nil, err
			}
			fields["mode"] = o.mode
			if resource, err = json.Marshal(fields); err != nil {
				return nil, err
			}
		}
		bindings = append(bindings, runtimeBinding{
			resource:   resource,
			collection: b.RecommendedName,
			key:        b.Key,
			schema:     b.DocumentSchemaJson,
			backfill:   uint32(o.backfill),
		})
	}
	switch {
	case len(discovered) == 0:
		return nil, errors.New("no table can be captured: the publication may be missing or empty (see the warnings above)")
	case len(bindings) == 0:
		return nil, fmt.Errorf("none of the %d discovered tables matches %s; `source-postgres discover` lists them",
			len(discovered), o.tables)
	}
	return bindings, nil
}

// tablePatterns compiles a comma-separated list, the --tables of a command.
func tablePatterns(command, list string) ([]tablePattern, error) {
	var patterns []tablePattern
	for glob := range strings.SplitSeq(list, ",") {
		if glob = strings.TrimSpace(glob); glob == "" {
			continue
		}
		p, err := compileTablePattern(glob)
		if err != nil {
			return nil, usageError(command + ": --tables: " + glob + " " + err.Error())
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}
