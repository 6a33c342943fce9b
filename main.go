// source-postgres is a capture connector for Estuary Flow. main.go owns the process: it tells a runtime on stdin from a
// person at a terminal, sets up logging and signals, and turns the outcome into an exit status.
//
// DESIGN.md §2 has the files in reading order, and what each owns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	_ "net/http/pprof" // served at PPROF_ADDRESS
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

const documentationURL = "https://go.estuary.dev/source-postgresql"

const helpText = `source-postgres captures a PostgreSQL database for Estuary Flow.

The Flow runtime starts it without arguments and speaks the capture protocol on its stdin and stdout. For people:

  source-postgres preview --config FILE    capture as the runtime would, and print the documents
  source-postgres discover --config FILE   list the tables that can be captured
  source-postgres plan --config FILE       say what a capture would do, and what is missing for it
  source-postgres verify --config FILE --documents FILE
                                           replay captured documents and compare them with the tables
  source-postgres spec                     print the connector's specification
  source-postgres version                  print which build this is
  source-postgres help                     this text

Each takes --help. FILE is the endpoint config as YAML or JSON, - for stdin. For example:

  address: localhost:5432
  user: flow_capture
  database: postgres
  historyMode: false
  credentials: {auth_type: UserPassword, password: secret1234}
`

const (
	// blockedGrace is how long a stop waits for a write: a reader that has left stdout full must not keep us.
	blockedGrace = 2 * time.Second
	// stopLimit is how long a stop may take in all: undoing a slot that is being created takes the longest.
	stopLimit = 15 * time.Second
)

func main() {
	if len(os.Args) > 1 || terminalWidth(os.Stdin) > 0 {
		os.Exit(runHuman(os.Args[1:]))
	}
	os.Exit(runConnector())
}

// runHuman runs a command of a person and returns the exit status: 0, 1 for a failure, 2 for wrong usage, or what an
// exitError says.
func runHuman(args []string) int {
	command, rest := "help", []string(nil)
	if len(args) > 0 {
		command, rest = args[0], args[1:]
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	// The second Ctrl-C is not ours to catch.
	context.AfterFunc(ctx, cancel)

	var err error
	switch command {
	case "help", "-h", "-help", "--help":
		fmt.Print(helpText)
	case "version", "-version", "--version":
		fmt.Println(versionLine())
	case "spec":
		err = specCommand(ctx, rest)
	case "discover":
		err = discoverCommand(ctx, rest)
	case "preview":
		err = previewCommand(ctx, rest)
	case "plan":
		err = planCommand(ctx, rest)
	case "verify":
		err = verifyCommand(ctx, rest)
	default:
		err = usageError("there is no command " + command + "; `source-postgres help` lists them")
	}
	var usage usageError
	var exit *exitError
	var connector *connectorExit
	status := 1
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &exit):
		status = exit.status
	case ctx.Err() != nil:
		return 0 // stopped as asked; why the connector ended is in its logs
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "source-postgres: "+err.Error())
		return 2
	case errors.As(err, &connector) && connector.message != "" && strings.HasPrefix(connector.status, "exit status"):
		return 1 // that was its last log, which has been shown
	case connector != nil:
		err = fmt.Errorf("the connector ended (%s)", connector.status)
	}
	text := "source-postgres " + command + ": " + err.Error()
	if os.Getenv("LOG_FORMAT") == "json" {
		newConsole(os.Stderr, "json").log(connectorLog{level: "error", message: text})
	} else {
		fmt.Fprintln(os.Stderr, text)
	}
	return status
}

// versionLine says which build this is.
func versionLine() string {
	text := fmt.Sprintf("source-postgres, capture protocol %d", protocolVersion)
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return text
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			text += ", revision " + s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			text += " and changes"
		}
	}
	return text + ", " + info.GoVersion
}

// errTerminated is the word of a signal.
var errTerminated = errors.New("terminated by a signal")

// runConnector serves the protocol on stdin and stdout and returns the exit status. The last line on stderr of a failure
// is the whole reason.
func runConnector() int {
	if err := setUpLogging(os.Getenv("LOG_FORMAT"), os.Getenv("LOG_LEVEL")); err != nil {
		logrus.Error(err)
		return 1
	}
	c, err := parseCodec(os.Getenv("FLOW_RUNTIME_CODEC"))
	if err != nil {
		logrus.Error(err)
		return 1
	}
	setMemoryLimit()
	if address := os.Getenv("PPROF_ADDRESS"); address != "" {
		go func() {
			logrus.WithError(http.ListenAndServe(address, nil)).Warn("cannot serve profiles at PPROF_ADDRESS")
		}()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGPIPE) // a closed stdout is an error of a write, told like any other
	go func() {
		<-signals
		cancel(errTerminated)
	}()

	k := &connector{
		requests: newRequestReader(awaitRequest(os.Stdin), c),
		out:      newOutput(os.Stdout, c),
		stop:     cancel,
		docsURL:  documentationURL,
		polling:  os.Getenv("SHUTDOWN_AFTER_POLLING") == "yes",
	}
	if url := os.Getenv("DOCS_URL"); url != "" {
		k.docsURL = url
	}
	ended := make(chan error, 1)
	go func() { ended <- k.serve(ctx) }()
	select {
	case err = <-ended:
		return exitStatus(err, k.out.settled())
	case <-ctx.Done():
		return stopped(ctx, k, ended)
	}
}

// awaitedFor is how long nothing may come on stdin until that is said: a runtime sends its first request at once.
const awaitedFor = 10 * time.Second

// awaitedInput says what it waits for when nothing comes.
type awaitedInput struct {
	io.Reader
	timer *time.Timer
}

func awaitRequest(r io.Reader) io.Reader {
	return &awaitedInput{r, time.AfterFunc(awaitedFor, func() {
		logrus.Warn("waiting for a request of the Flow runtime on stdin, of which none has come yet. To use the connector by hand start it " +
			"with a command: `help` lists them")
	})}
}

func (a *awaitedInput) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	a.timer.Stop()
	return n, err
}

// stopped waits for a connector that has been told to stop, as long as it makes sense.
func stopped(ctx context.Context, k *connector, ended <-chan error) int {
	blocked := time.Now()
	for started := blocked; time.Since(started) < stopLimit; {
		select {
		case err := <-ended:
			return exitStatus(err, k.out.settled())
		case <-time.After(10 * time.Millisecond):
		}
		switch {
		case k.idle.Load(): // no capture is open, and a read of stdin does not end by itself
			return exitStatus(context.Cause(ctx), true)
		case k.out.blockedSince.Load() == 0:
			blocked = time.Now()
		case time.Since(blocked) >= blockedGrace:
			logrus.Errorf("%v: a write to stdout was blocked, the last message may be incomplete", context.Cause(ctx))
			return 1
		}
	}
	logrus.Errorf("%v: the capture did not stop within %s", context.Cause(ctx), stopLimit)
	return 1
}

// exitStatus logs why the process ends and returns its status. A stop between checkpoints is no failure.
func exitStatus(err error, settled bool) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errStdinClosed), errors.Is(err, errTerminated):
		if settled {
			return 0
		}
		logrus.Errorf("%v: documents behind the last checkpoint were already written", err)
	default:
		logrus.Error(strings.TrimSpace(err.Error()))
	}
	return 1
}
