package main

// Goal: preview and the stand-in runtime keep exactly what was committed, whatever dies when. Method: a scripted
// connector that counts, killed by itself, by preview or together with preview; the kept output must be 1, 2, 3 … once.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"source-postgres/tests/history"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
)

// scriptEnv is what makes the test binary, started as a child, the scripted connector.
func scriptEnv(t *testing.T, s script) []string {
	t.Helper()
	if s.Marks == "" {
		s.Marks = t.TempDir()
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"SCRIPT=" + string(text)}
}

// bothCodecs runs f with each of them, in the short form with one that is drawn.
func bothCodecs(t *testing.T, f func(t *testing.T, c codec)) {
	drawn := codec(rand.IntN(2))
	for _, c := range []codec{codecProto, codecJSON} {
		t.Run(codecName(c), func(t *testing.T) {
			if testing.Short() && c != drawn {
				t.Skip("one codec a run")
			}
			f(t, c)
		})
	}
}

func TestDriverCaptures(t *testing.T) {
	bothCodecs(t, func(t *testing.T, c codec) {
		r := startRuntime(t, runtimeOptions{
			config: map[string]any{"address": "nowhere"}, codec: c, tables: "public.*", connector: "scripted",
			env: scriptEnv(t, script{Documents: 100, Per: 7}),
		})
		r.waitStreaming()
		r.waitDocuments(100)
		r.waitLog("acknowledged 15")
		r.stop()
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		for i, d := range r.documents() {
			if want := i/7 + 1; d.checkpoint != want || d.table != "public.t" {
				t.Fatalf("document %d: checkpoint %d of %s, want %d", i, d.checkpoint, d.table, want)
			}
		}
		if n := r.history(history.Table{Name: "public.t", Key: []string{"id"}}).Keys(); n != 100 {
			t.Errorf("%d keys", n)
		}
		if got, want := string(r.committedState()), `{"count":100,"seen":{"a100":100,"a98":98}}`; got != want {
			t.Errorf("state %s, want %s", got, want)
		}
		if got := r.capture.Bindings[0].StateKey; got != "public%2Ft" {
			t.Errorf("state key %s", got)
		}
	})
}

func TestDriverResumes(t *testing.T) {
	bothCodecs(t, func(t *testing.T, c codec) {
		r := startRuntime(t, runtimeOptions{
			config: map[string]any{}, codec: c, tables: "public.t", connector: "scripted",
			env: scriptEnv(t, script{Documents: 60, Per: 7, DieAt: []int{1, 13, 15}}),
		})
		deaths := 0
		for {
			err := r.wait()
			var exit *connectorExit
			if !errors.As(err, &exit) || exit.status != "signal: killed" {
				t.Fatalf("the session ended with %v", err)
			}
			if deaths++; deaths == 3 {
				break
			}
			r.start()
		}
		r.start()
		r.waitDocuments(60)
		for i, d := range r.documents() {
			if want := fmt.Sprintf(`"id":%d}`, i+1); !strings.HasSuffix(d.doc, want) {
				t.Fatalf("document %d is %s", i+1, d.doc)
			}
		}
	})
}

// A binding that is taken out of the task is told of as inactive, and has its state when it comes back.
func TestDriverInactiveBindings(t *testing.T) {
	r := newTestRuntime(t, runtimeOptions{
		config: map[string]any{}, connector: "scripted", env: scriptEnv(t, script{Documents: 4, Per: 2}),
	})
	binding := func(name string, backfill uint32) runtimeBinding {
		return runtimeBinding{
			resource:   json.RawMessage(`{"namespace":"public","stream":"` + name + `"}`),
			collection: name, key: []string{"/id"}, backfill: backfill,
		}
	}
	list := func(bindings []*pf.CaptureSpec_Binding) (keys []string) {
		for _, b := range bindings {
			keys = append(keys, b.StateKey)
		}
		return keys
	}
	for _, test := range []struct {
		bindings         []runtimeBinding
		active, inactive []string
	}{
		{[]runtimeBinding{binding("t", 0), binding("u", 0)}, []string{"public%2Ft", "public%2Fu"}, nil},
		{[]runtimeBinding{binding("t", 1)}, []string{"public%2Ft.v1"}, []string{"public%2Fu"}},
		{[]runtimeBinding{binding("v", 0)}, []string{"public%2Fv"}, []string{"public%2Ft.v1", "public%2Fu"}},
		{[]runtimeBinding{binding("u", 0)}, []string{"public%2Fu"}, []string{"public%2Fv", "public%2Ft.v1"}},
	} {
		r.bind(test.bindings)
		if got := list(r.capture.Bindings); !slices.Equal(got, test.active) {
			t.Errorf("active %q, want %q", got, test.active)
		}
		if got := list(r.capture.InactiveBindings); !slices.Equal(got, test.inactive) {
			t.Errorf("inactive %q, want %q", got, test.inactive)
		}
		r.start()
		r.stop()
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// Withheld acknowledgements are what a crash of the runtime between commit and Acknowledge looks like.
func TestDriverWithholdsAcknowledgements(t *testing.T) {
	r := startRuntime(t, runtimeOptions{
		config: map[string]any{}, tables: "public.t", connector: "scripted", runtime: runtimeV1, // its end is logged
		env:         scriptEnv(t, script{Documents: 20, Per: 2}),
		acknowledge: func(*testRuntime, int) int { return 0 },
	})
	r.waitDocuments(20)
	if err := r.current().acknowledge(3); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.stderr(), "10 checkpoints, 3 acknowledged") {
		t.Error(r.stderr())
	}
}

func TestDriverFaults(t *testing.T) {
	for _, test := range []struct{ fault, discover, run string }{
		{fault: "discover", discover: "cannot connect: no such host"},
		{fault: "twice", discover: "the connector sent Discovered after its answer"},
		{fault: "partial", run: "connector wrote a partial message and then closed its output"},
		{fault: "inside", run: "unexpected capture connector EOF within a capture checkpoint sequence"},
		{fault: "binding", run: "a document of binding 7, but there are 1"},
		{fault: "crash", run: "panic: oh no\ngoroutine 1:"},
	} {
		bothCodecs(t, func(t *testing.T, c codec) {
			r := newTestRuntime(t, runtimeOptions{
				config: map[string]any{}, codec: c, connector: "scripted",
				env: scriptEnv(t, script{Documents: 20, Per: 5, Fault: test.fault}),
			})
			if test.discover != "" {
				if _, err := r.driver.discover(t.Context()); err == nil || err.Error() != test.discover {
					t.Fatalf("discover: %v, want %s", err, test.discover)
				}
				return
			}
			r.bind([]runtimeBinding{{
				resource: json.RawMessage(`{"namespace":"public","stream":"t"}`), collection: "t", key: []string{"/id"},
			}})
			r.start()
			if err := r.wait(); err == nil || err.Error() != test.run {
				t.Fatalf("%s: %v, want %s", test.fault, err, test.run)
			}
			if n := len(r.documents()); n != 0 {
				t.Fatalf("%d documents are committed", n)
			}
		})
	}
}

// A kill within a message shows as the kill.
func TestDriverKilledWithinAMessage(t *testing.T) {
	bothCodecs(t, func(t *testing.T, c codec) {
		r := startRuntime(t, runtimeOptions{
			config: map[string]any{}, tables: "public.t", codec: c, connector: "scripted",
			env: scriptEnv(t, script{Documents: 20, Per: 5, Fault: "hang"}),
		})
		r.waitLog("half a message is out")
		r.kill()
		var exit *connectorExit
		if err := r.wait(); !errors.As(err, &exit) || exit.status != "signal: killed" {
			t.Fatalf("%v, want an exit by signal: killed", err)
		}
	})
}

func TestDriverKillsTheDeaf(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the five seconds that a connector has to stop")
	}
	t.Parallel()
	r := startRuntime(t, runtimeOptions{
		config: map[string]any{}, tables: "public.t", connector: "scripted", runtime: runtimeV1,
		env: scriptEnv(t, script{Documents: 10, Per: 5, Fault: "deaf"}),
	})
	r.waitDocuments(10)
	begin := time.Now()
	r.stop()
	var exit *connectorExit
	if err := r.wait(); !errors.As(err, &exit) || exit.status != "signal: killed" {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < stopGrace || took > stopGrace+allow(stopGrace) {
		t.Errorf("killed after %v", took)
	}
}

// human runs the command of a person in a process of its own.
func human(ctx context.Context, t *testing.T, s script, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), testMainVariable+"=human", testMainVariable+"_CHILD=scripted")
	cmd.Env = append(cmd.Env, scriptEnv(t, s)...)
	return cmd
}

func writeConfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte("address: localhost:1\ncredentials: {password: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkCounted checks that lines are the documents 1 to n, each once and in order.
func checkCounted(t *testing.T, lines []byte, n int) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(string(lines), "\n"), "\n")
	for i := range max(n, len(got)) {
		want := fmt.Sprintf(
			`["public.t",{"_meta":{"op":"c","source":{"schema":"public","table":"t","snapshot":true,"loc":[-1,%d,0]}},"id":%d}]`,
			i+1, i+1,
		)
		if i >= len(got) || i >= n || got[i] != want {
			t.Fatalf("line %d of %d (want %d) is %q", i+1, len(got), n, got[min(i, len(got)-1)])
		}
	}
}

// The connector dies and is started again: the output has every document once.
func TestPreviewRestartsConnector(t *testing.T) {
	dir, config := t.TempDir(), writeConfig(t)
	output := filepath.Join(dir, "out.jsonl")
	out, err := human(t.Context(), t, script{Documents: 40, Per: 6, DieAt: []int{2, 9, 20}},
		"preview", "--config", config, "--tables", "public.*", "--json", "--restart", "--exit-when-caught-up",
		"--output", output, "--state", filepath.Join(dir, "state.json")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := bytes.Count(out, []byte("starting it again")); n != 3 {
		t.Errorf("%d restarts\n%s", n, out)
	}
	lines, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	checkCounted(t, lines, 40)
}

// Preview itself is killed at random moments; its successors go on where its files say.
func TestPreviewKilled(t *testing.T) {
	documents, wantKills := 30000, 5
	if testing.Short() {
		documents, wantKills = 10000, 2
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir, config := t.TempDir(), writeConfig(t)
	output, state := filepath.Join(dir, "out.jsonl"), filepath.Join(dir, "state.json")
	kills := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := human(ctx, t, script{Documents: documents, Per: 50}, "preview", "--config", config,
			"--tables", "public.*", "--json", "--exit-when-caught-up", "--output", output, "--state", state)
		var killer sync.WaitGroup
		if kills < wantKills {
			var size int64
			if info, err := os.Stat(output); err == nil {
				size = info.Size()
			}
			size += int64(random.IntN(500_000))
			killer.Go(func() {
				for ctx.Err() == nil {
					if info, err := os.Stat(output); err == nil && info.Size() > size {
						cancel()
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		out, err := cmd.CombinedOutput()
		cancel()
		killer.Wait()
		if err == nil {
			break
		}
		if kills++; kills > wantKills {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	t.Logf("%d kills", kills)
	lines, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	checkCounted(t, lines, documents)
}

// A preview that is killed ahead of its first commit leaves output that its successor cuts off.
func TestPreviewKilledBeforeItsFirstCommit(t *testing.T) {
	dir := t.TempDir()
	o := &previewOptions{outputFile: filepath.Join(dir, "out.jsonl"), stateFile: filepath.Join(dir, "state.json")}
	for range 2 {
		k, err := newPreviewSink(o, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.output.WriteString("not committed"); err != nil {
			t.Fatal(err)
		}
		k.output.Close() // as a kill does
	}
	if _, err := newPreviewSink(&previewOptions{outputFile: o.outputFile}, nil); err == nil {
		t.Error("output of which no state file tells was taken")
	}
}

// Ctrl-C ends the session as the runtime does: on V1 the connector ends by itself, on V2 it is killed.
func TestPreviewStopsOnSignal(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			cmd := human(t.Context(), t, script{Documents: 5, Per: 5},
				"preview", "--config", writeConfig(t), "--tables", "t", "--runtime", version)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(stdout)
			for i := range 5 {
				line, err := lines.ReadString('\n')
				if want := fmt.Sprintf("backfill  public.t  id=%d\n", i+1); line != want {
					t.Errorf("stdout %q, want %q: %v", line, want, err)
				}
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			rest, err := io.ReadAll(lines)
			if len(rest) > 0 || err != nil {
				t.Errorf("stdout goes on with %q, %v", rest, err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v\n%s", err, stderr.String())
			}
			if version == "v1" && !strings.Contains(stderr.String(), "1 checkpoints, ") {
				t.Errorf("the connector was not stopped by EOF:\n%s", stderr.String())
			}
		})
	}
}

// previewRequests are what a preview sends before the capture begins, each Spec to a new process.
var previewRequests = []string{"Spec", "Discover", "Spec", "Validate", "Spec", "Apply", "Spec", "Open"}

// Preview stops as asked whatever the connector is at, which ends with status 0 without an answer then, or is killed.
func TestPreviewStopsBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	for i, request := range previewRequests {
		for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
			t.Run(fmt.Sprintf("%d %s,%s", i+1, request, s), func(t *testing.T) {
				if testing.Short() && (i > 0 && request != "Open" || s != os.Interrupt) {
					t.Skip("takes the five seconds that a connector has to stop")
				}
				t.Parallel()
				cmd := human(t.Context(), t, script{Documents: 5, Per: 5, HoldAt: i + 1},
					"preview", "--config", writeConfig(t), "--tables", "t")
				stderr, err := cmd.StderrPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				var text strings.Builder
				lines := bufio.NewScanner(stderr)
				for lines.Scan() {
					fmt.Fprintln(&text, lines.Text())
					if strings.Contains(lines.Text(), "the request is not answered") {
						if err := cmd.Process.Signal(s); err != nil {
							t.Error(err)
						}
					}
				}
				if err := cmd.Wait(); err != nil {
					t.Fatalf("%v\n%s", err, &text)
				}
			})
		}
	}
}

// A connector that ends with status 0 without an answer, of which nobody asked that, is a failure; --restart begins with the
// capture, and goes on behind it.
func TestPreviewConnectorLeaves(t *testing.T) {
	t.Parallel()
	for i, request := range previewRequests {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d %s,restart=%t", i+1, request, restart), func(t *testing.T) {
				if testing.Short() && request != "Spec" && request != "Open" || testing.Short() && i > 0 && !restart {
					t.Skip("starts preview for each of many cases")
				}
				t.Parallel()
				out, err := human(t.Context(), t, script{Documents: 5, Per: 5, LeaveAt: i + 1}, "preview", "--config", writeConfig(t),
					"--tables", "t", "--exit-when-caught-up", fmt.Sprint("--restart=", restart)).CombinedOutput()
				status, want := 0, 1
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					status = exit.ExitCode()
				}
				lines := strings.Split(strings.TrimSpace(string(out)), "\n")
				last := "source-postgres preview: the connector exited without an answer"
				if restart && i >= slices.Index(previewRequests, "Apply")-1 {
					want, last = 0, ""
				}
				if status != want || want != 0 && !strings.HasPrefix(lines[len(lines)-1], last) {
					t.Errorf("status %d\n%s", status, out)
				}
			})
		}
	}
}

// TestPreviewLogs: logs have the level and form that the variables ask for, which the connector itself goes by.
func TestPreviewLogs(t *testing.T) {
	if testing.Short() {
		t.Skip("starts preview for each of many cases")
	}
	for name, test := range map[string]struct {
		env        []string
		args       []string
		status     int
		want, last string
	}{
		"text":   {env: []string{"LOG_FORMAT=text"}, want: "info    acknowledged 2\n"},
		"json":   {env: []string{"LOG_FORMAT=json"}, want: `{"level":"info","msg":"acknowledged 2"}` + "\n"},
		"colour": {env: []string{"LOG_FORMAT=color"}, want: "\x1b[36minfo   \x1b[0m acknowledged 2\n"},
		"no such format": {
			env: []string{"LOG_FORMAT=xml"}, status: 2,
			last: `source-postgres: preview: LOG_FORMAT "xml" is not one of json, text, color`,
		},
		"no such level": {
			env: []string{"LOG_LEVEL=loud"}, status: 2,
			last: `source-postgres: preview: LOG_LEVEL "loud" is not one of trace, debug, info, warn, error`,
		},
		"no such level, by flag": {
			env: []string{"LOG_LEVEL=loud"}, args: []string{"--log-level", "quiet"}, status: 2,
			last: `source-postgres: preview: --log-level "quiet" is not one of trace, debug, info, warn, error`,
		},
		"level":         {env: []string{"LOG_LEVEL=debug"}, want: "debug   at level debug\n"},
		"level by flag": {env: []string{"LOG_LEVEL=error"}, args: []string{"--log-level", "debug"}, want: "debug   at level debug\n"},
		"codec":         {env: []string{"FLOW_RUNTIME_CODEC=json"}, want: "info    acknowledged 2\n"},
		"no such codec": {
			env: []string{"FLOW_RUNTIME_CODEC=xml"}, status: 2,
			last: `source-postgres: preview: FLOW_RUNTIME_CODEC is "xml": set it to "proto" or "json", or leave it out for "proto"`,
		},
	} {
		cmd := human(t.Context(), t, script{Documents: 4, Per: 2}, append([]string{
			"preview", "--config", writeConfig(t), "--tables", "t", "--until-idle", "300ms",
		}, test.args...)...)
		cmd.Env = append(cmd.Env, test.env...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		_ = cmd.Run()
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		if cmd.ProcessState.ExitCode() != test.status || !strings.Contains(stderr.String(), test.want) ||
			test.last != "" && lines[len(lines)-1] != test.last {
			t.Errorf("%s: status %d\n%s", name, cmd.ProcessState.ExitCode(), &stderr)
		}
		for _, line := range lines {
			if name == "json" && !json.Valid([]byte(line)) {
				t.Errorf("no JSON: %s", line)
			}
		}
	}
}

func TestPreviewUntilIdle(t *testing.T) {
	out, err := human(t.Context(), t, script{Documents: 4, Per: 2}, "preview", "--config", writeConfig(t),
		"--tables", "t", "--json", "--output-state", "--until-idle", "300ms").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) != 7 || lines[2] != `["connectorState",{"updated":{"count":2,"seen":{"a2":2,"a0":null}},"mergePatch":true}]` {
		t.Errorf("stdout %s", out)
	}
}

func TestHumanCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("starts preview for each of many cases")
	}
	config := writeConfig(t)
	for _, test := range []struct {
		args         []string
		fault        string
		status       int
		stdout, last string
	}{
		{args: []string{}, stdout: helpText},
		{args: []string{"--help"}, stdout: helpText},
		{args: []string{"help"}, stdout: helpText},
		{args: []string{"--version"}, stdout: versionLine() + "\n"},
		{
			args: []string{"preview", "--config", config, "--state", "/nowhere/at/all/state"}, status: 1,
			last: "source-postgres preview: --state /nowhere/at/all/state: there is no folder /nowhere/at/all: make it first (in a container: mount it)",
		},
		{
			args: []string{"discover", "--config", config},
			stdout: "TABLE          KEY     MODE\n" +
				"public.t       id      automatic\n" +
				"other.keyless  (none)  Without Primary Key\n",
		},
		{args: []string{"spec"}, stdout: "{\n  \"protocol\": 3032023,\n  \"configSchema\": {\n    \"a\": 1\n  },\n" +
			"  \"resourceConfigSchema\": {},\n  \"documentationUrl\": \"https://example.com\",\n" +
			"  \"resourcePathPointers\": [\n    \"/namespace\",\n    \"/stream\"\n  ]\n}\n"},
		{
			args: []string{"captrue"}, status: 2,
			last: "source-postgres: there is no command captrue; `source-postgres help` lists them",
		},
		{
			args: []string{"preview"}, status: 2,
			last: "source-postgres: preview: --config is missing: the endpoint config, a YAML or JSON file",
		},
		{
			args: []string{"preview", "--config", config, "more"}, status: 2,
			last: "source-postgres: preview: unexpected argument more",
		},
		{
			args: []string{"preview", "--config", config, "--runtime", "v3"}, status: 2,
			last: "source-postgres: preview: --runtime is v1 or v2, not v3",
		},
		{
			args: []string{"preview", "--config", config, "--tables", "a.b.c"}, status: 2,
			last: `source-postgres: preview: --tables: a.b.c has more than one dot: ` +
				`write schema.table, and \. for a dot inside a name`,
		},
		{
			args: []string{"discover", "--config", config}, fault: "discover", status: 1,
			last: "fatal   cannot connect: no such host error=x",
		},
		{
			args: []string{"preview", "--config", config, "--tables", "x.*"}, status: 1,
			last: "source-postgres preview: none of the 2 discovered tables matches x.*; `source-postgres discover` lists them",
		},
		{
			args: []string{"preview", "--config", config, "--tables", "t"}, fault: "crash", status: 1,
			last: "goroutine 1:",
		},
	} {
		cmd := human(t.Context(), t, script{Documents: 10, Per: 5, Fault: test.fault}, test.args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		status := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status = exit.ExitCode()
		}
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		if status != test.status || stdout.String() != test.stdout || test.last != "" && lines[len(lines)-1] != test.last {
			t.Errorf("%v: status %d\nstdout %q\nstderr %s", test.args, status, stdout.String(), stderr.String())
		}
	}
}

// An output file that the state does not account for is never written over.
func TestPreviewSinkFiles(t *testing.T) {
	for _, test := range []struct{ name, state, output, wantErr, wantOutput string }{
		{name: "fresh"},
		{name: "uncommitted tail", state: `{"connectorState":{"a":1},"outputBytes":3}`, output: "abcdef", wantOutput: "abc"},
		{name: "bare state", state: `{"cursor":"0/1"}`},
		{
			name: "too short", state: `{"connectorState":{},"outputBytes":7}`, output: "abcdef",
			wantErr: "DIR/out has 6 bytes, but DIR/state says that 7 are committed: remove both to start over",
		},
		{
			name: "unknown", output: "abcdef",
			wantErr: "DIR/out is not empty and no state file says how much of it is committed: remove it to start over",
		},
		{name: "broken", state: `{`, wantErr: "DIR/state: unexpected end of JSON input"},
	} {
		dir := t.TempDir()
		o := previewOptions{stateFile: filepath.Join(dir, "state"), outputFile: filepath.Join(dir, "out")}
		if test.state != "" {
			os.WriteFile(o.stateFile, []byte(test.state), 0o600)
		}
		if test.output != "" {
			os.WriteFile(o.outputFile, []byte(test.output), 0o600)
		}
		sink, err := newPreviewSink(&o, newConsole(os.Stderr, ""))
		got := ""
		if err != nil {
			got = strings.ReplaceAll(err.Error(), dir, "DIR")
		}
		if got != test.wantErr {
			t.Errorf("%s: %s, want %s", test.name, got, test.wantErr)
		}
		if err != nil {
			continue
		}
		if test.name == "bare state" && string(sink.state) != test.state {
			t.Errorf("state %s", sink.state)
		}
		sink.close()
		if out, _ := os.ReadFile(o.outputFile); string(out) != test.wantOutput {
			t.Errorf("%s: output %q, want %q", test.name, out, test.wantOutput)
		}
	}
}

// A backfill marker is a line, in its place among the documents.
func TestPreviewSinkMarkers(t *testing.T) {
	capture := &pf.CaptureSpec{Bindings: []*pf.CaptureSpec_Binding{
		{ResourceConfigJson: []byte(`{"namespace":"s","stream":"a"}`)},
		{ResourceConfigJson: []byte(`{"namespace":"s","stream":"b\"c"}`)},
	}}
	for asJSON, want := range map[bool]string{
		true: `["s.a",{"id":1}]` + "\n" + `["backfillBegin",{"binding":"s.b\"c"}]` + "\n" +
			`["backfillComplete",{"binding":"s.b\"c"}]` + "\n" + `["s.a",{"id":2}]` + "\n",
		false: "{\"id\":1}\nBackfillBegin  s.b\"c\nBackfillComplete  s.b\"c\n{\"id\":2}\n",
	} {
		o := previewOptions{json: asJSON, outputFile: filepath.Join(t.TempDir(), "out")}
		sink, err := newPreviewSink(&o, newConsole(os.Stderr, ""))
		if err != nil {
			t.Fatal(err)
		}
		sink.bind(capture)
		transactions := newRuntimeTransactions(new(runtimeDriver), capture, map[string]any{}, sink, func(int) {})
		for _, r := range []*pc.Response{
			{Captured: &pc.Response_Captured{DocJson: []byte(`{"id":1}`)}},
			checkpointed(`{}`),
			begins(1), checkpointed(`{}`), completes(1), checkpointed(`{}`),
			{Captured: &pc.Response_Captured{DocJson: []byte(`{"id":2}`)}},
			checkpointed(`{}`),
		} {
			if err := transactions.take(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := transactions.flush(); err != nil {
			t.Fatal(err)
		}
		sink.close()
		if got, err := os.ReadFile(o.outputFile); string(got) != want {
			t.Errorf("the output is\n%s\nwant\n%s: %v", got, want, err)
		}
	}
}

// A transaction larger than the buffer is written before its checkpoint; a commit of an earlier checkpoint leaves it out.
func TestPreviewSinkSpills(t *testing.T) {
	dir := t.TempDir()
	o := previewOptions{json: true, stateFile: filepath.Join(dir, "state"), outputFile: filepath.Join(dir, "out")}
	capture := &pf.CaptureSpec{Bindings: []*pf.CaptureSpec_Binding{
		{ResourceConfigJson: []byte(`{"namespace":"s","stream":"t"}`)},
	}}
	open := func() *previewSink {
		sink, err := newPreviewSink(&o, newConsole(os.Stderr, ""))
		if err != nil {
			t.Fatal(err)
		}
		sink.bind(capture)
		return sink
	}
	check := func(want int64) {
		t.Helper()
		info, err := os.Stat(o.outputFile)
		if err != nil || info.Size() != want {
			t.Errorf("the output has %d bytes, want %d: %v", info.Size(), want, err)
		}
	}
	document := []byte(`{"x":"` + strings.Repeat("x", 300_000) + `"}`)
	line := int64(len(document) + len(`["s.t",]`) + 1)
	sink := open()
	fill := func(documents int) {
		t.Helper()
		for range documents {
			if err := sink.document(0, document); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit := func() {
		t.Helper()
		if n, err := sink.commit(commitment{checkpoints: 1, state: json.RawMessage(`{}`)})(); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	checkpoint := func() {
		t.Helper()
		if err := sink.checkpoint(nil); err != nil {
			t.Fatal(err)
		}
	}
	fill(1)
	checkpoint()
	fill(9)
	commit()
	check(10 * line) // on disk, but not committed
	fill(1)
	sink.output.Close() // as a kill would
	sink = open()
	check(line)
	fill(9)
	checkpoint()
	commit()
	sink.close()
	check(10 * line)
}

// The table of RFC 7396, appendix A, as far as it is about objects.
func TestMergePatch(t *testing.T) {
	for _, test := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"n":12345678901234567890}`, `{}`, `{"n":12345678901234567890}`},
	} {
		target, err := decodeState([]byte(test.target))
		if err != nil {
			t.Fatal(err)
		}
		patch, err := decodeState([]byte(test.patch))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(mergePatch(target, patch)); string(got) != test.want {
			t.Errorf("%s with %s: %s, want %s", test.target, test.patch, got, test.want)
		}
	}
}

func TestStateKey(t *testing.T) {
	for _, test := range []struct {
		path     []string
		backfill uint32
		want     string
	}{
		{[]string{"public", "foo"}, 0, "public%2Ffoo"},
		{[]string{"test", "t"}, 1, "test%2Ft.v1"},
		{[]string{"Ünï", "a b%c-_+.="}, 12, "Ünï%2Fa%20b%25c-_+.=.v12"},
		{[]string{"x", "€"}, 0, "x%2F%E2%82%AC"},
	} {
		if got := stateKey(test.path, test.backfill); got != test.want {
			t.Errorf("%q: %s, want %s", test.path, got, test.want)
		}
	}
}

func TestProjections(t *testing.T) {
	projections, err := projectionsOf([]byte(`{
		"$defs":{"T":{"$anchor":"T","type":"object","properties":{
			"a/b":{"type":["integer","null"]},"id":{"type":"integer"},"self":{"$ref":"#T"}}}},
		"allOf":[{"properties":{"_meta":{"type":"object","properties":{"source":{"properties":{
			"txid":{"type":"integer"}}}}}}},{"$ref":"#T"}]}`), []string{"/id", "/_meta/source/loc/0"})
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for _, p := range projections {
		if len(p.Field) < 30 && !strings.HasPrefix(p.Field, "self") {
			fields = append(fields, fmt.Sprintf("%s %s %v", p.Field, p.Ptr, p.IsPrimaryKey))
		}
	}
	want := []string{
		"_meta /_meta false",
		"_meta/flow_truncated /_meta/flow_truncated false",
		"_meta/source /_meta/source false",
		"_meta/source/loc/0 /_meta/source/loc/0 true",
		"_meta/source/txid /_meta/source/txid false",
		"a~1b /a~1b false",
		"flow_document  false",
		"flow_published_at /_meta/uuid false",
		"id /id true",
	}
	if !slices.Equal(fields, want) {
		t.Errorf("projections\n%s\nwant\n%s", strings.Join(fields, "\n"), strings.Join(want, "\n"))
	}
}

func TestParseLog(t *testing.T) {
	for _, test := range []struct {
		line string
		want connectorLog
	}{
		{"panic: x", connectorLog{message: "panic: x"}},
		{`{"msg":`, connectorLog{message: `{"msg":`}},
		{
			`{"time":"2026","level":"info","msg":"Backfilling Tables","eventType":"connectorStatus","n":3,"a":"b c"}`,
			connectorLog{level: "info", message: "Backfilling Tables", status: true, fields: ` a="b c" n=3`},
		},
		{`{"lvl":"error","message":"m"}`, connectorLog{level: "error", message: "m"}},
		{`{"message":"m"}`, connectorLog{level: "warning", message: "m"}},
	} {
		got := parseLog([]byte(test.line))
		if got.line != test.line {
			t.Errorf("%s: kept as %s", test.line, got.line)
		}
		if got.line = ""; got != test.want {
			t.Errorf("%s: %+v", test.line, got)
		}
	}
}

func TestAppendReadable(t *testing.T) {
	long := strings.Repeat("é", 100)
	for _, test := range []struct {
		key       []string
		doc, want string
	}{
		{
			[]string{"id"},
			`{"_meta":{"op":"u","source":{"loc":[1,2,3]},"before":{"id":1}},"b":"x","a":null,"id":1}`,
			"update    s.t  id=1  a=null b=\"x\"\n",
		},
		{[]string{"/_meta/source/loc/0"}, `{"_meta":{"op":"d","source":{}}}`, "delete    s.t \n"},
		{
			[]string{"id"},
			`{"_meta":{"op":"c","source":{}},"id":2,"x":"` + long + `"}`,
			"insert    s.t  id=2  x=\"" + long[:58] + "…\n",
		},
		{nil, `[]`, "[]\n"},
	} {
		if got := string(appendReadable(nil, tableName{"s", "t"}, test.key, []byte(test.doc))); got != test.want {
			t.Errorf("%s: %q, want %q", test.doc, got, test.want)
		}
	}
}

func TestReadConfig(t *testing.T) {
	const quoteIt = "A text with characters that YAML knows otherwise, such as a password with : # @ % { } or a comma, must be in single quotes"
	path := filepath.Join(t.TempDir(), "config")
	for _, test := range []struct{ content, want, wantErr string }{
		{content: "a: 1\nb: {c: [x, 2.5, true]}\n", want: `{"a":1,"b":{"c":["x",2.5,true]}}`},
		{content: `{"address":"h:1"}`, want: `{"address":"h:1"}`},
		{content: "\ufeff{\"a\": \"x\\/y\", \"b\": \"\\ud83d\\ude00\"}\n", want: `{"a": "x\/y", "b": "\ud83d\ude00"}`},
		{content: "{a: 1, b: [2]}", want: `{"a":1,"b":[2]}`},
		{content: "", wantErr: "PATH: empty, want the endpoint config"},
		{content: "- a", wantErr: "PATH: yaml: unmarshal errors:\n  line 1: cannot unmarshal !!seq into map[string]interface {}. " + quoteIt},
		{content: "a: @b", wantErr: "PATH: yaml: found character that cannot start any token. " + quoteIt},
	} {
		os.WriteFile(path, []byte(test.content), 0o600)
		got, err := readConfig(path)
		text := ""
		if err != nil {
			text = strings.ReplaceAll(err.Error(), path, "PATH")
		}
		if string(got) != test.want || text != test.wantErr {
			t.Errorf("%q: %s, %s", test.content, got, text)
		}
	}
}

// Discover and preview say why a table is not offered, and what a capture would be refused for, and create nothing.
func TestPreviewLooks(t *testing.T) {
	db := newTestDB(t)
	table := db.createTable("published", "(id int PRIMARY KEY)")
	db.exec("CREATE UNLOGGED TABLE " + quoteTable(db.table("unlogged")) + " (id int)")
	patterns, err := tablePatterns("preview", db.table("unlogged").String())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := whyNotOffered(db.ctx, db.config(), patterns), db.table("unlogged").String()+": unlogged table"; got != want {
		t.Errorf("have %q, want %q", got, want)
	}
	if got := whyNotOffered(db.ctx, json.RawMessage(`{}`), patterns); got != "" {
		t.Errorf("of a config that is none: %q", got)
	}
	gone := db.table("gone")
	_, err = unready(db.ctx, db.config(), []tableName{table, gone})
	if want := "table " + gone.String() + " does not exist"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nlacks %s", err, want)
	}
	db.exec("DROP TABLE " + quoteTable(db.watermarks))
	_, _ = unready(db.ctx, db.config(), []tableName{table})
	if db.queryValue("SELECT (to_regclass($1) IS NULL)::text", db.watermarks.String()) != "true" {
		t.Error("a look has made the watermarks table")
	}
	if warnings, err := unready(db.ctx, db.config(), []tableName{table}); err != nil {
		t.Errorf("%v, %q", err, warnings)
	}
}

// benchmarkResponses makes a stream of n documents with a checkpoint each thousand.
func benchmarkResponses(c codec, n int) []byte {
	var stream bytes.Buffer
	s := &scripted{json: c == codecJSON, out: bufio.NewWriter(&stream)}
	doc := []byte(`{"_meta":{"op":"c","source":{"schema":"public","snapshot":true,"table":"pgbench_accounts",` +
		`"loc":[-1,123456,0]}},"abalance":0,"aid":123456,"bid":2,"filler":"` + strings.Repeat(" ", 84) + `"}`)
	for i := range n {
		s.send(&pc.Response{Captured: &pc.Response_Captured{DocJson: doc}})
		if i%1000 == 999 {
			s.send(&pc.Response{Checkpoint: &pc.Response_Checkpoint{
				State: &pf.ConnectorState{UpdatedJson: []byte(`{"cursor":"0/1"}`), MergePatch: true},
			}})
		}
	}
	return stream.Bytes()
}

// BenchmarkPreview reads documents, keeps them in a file and commits: the runtime's side of a capture.
func BenchmarkPreview(b *testing.B) {
	for _, c := range []codec{codecProto, codecJSON} {
		b.Run(codecName(c), func(b *testing.B) {
			stream := benchmarkResponses(c, 10000)
			dir := b.TempDir()
			o := previewOptions{json: true, stateFile: filepath.Join(dir, "state"), outputFile: filepath.Join(dir, "out")}
			sink, err := newPreviewSink(&o, newConsole(os.Stderr, ""))
			if err != nil {
				b.Fatal(err)
			}
			defer sink.close()
			capture := &pf.CaptureSpec{Bindings: []*pf.CaptureSpec_Binding{
				{ResourceConfigJson: []byte(`{"namespace":"public","stream":"pgbench_accounts"}`)},
			}}
			sink.bind(capture)
			b.SetBytes(int64(len(stream) / 10000))
			for read := 0; read < b.N; read += 10000 {
				t := newRuntimeTransactions(new(runtimeDriver), capture, map[string]any{}, sink, func(int) {})
				responses := newResponseReader(newPump(bytes.NewReader(stream), t.idle, t.woken), c)
				for {
					r, err := responses.next()
					if errors.Is(err, io.EOF) {
						break
					}
					if err == nil {
						err = t.take(r)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				if err := t.flush(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
