package main

// main_unit_test.go: what becomes an exit status, and how logging is set up. Runs of the whole process stand elsewhere.

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/sirupsen/logrus"
)

// keepLogging restores the logger after the test and returns where it writes meanwhile.
func keepLogging(t *testing.T) *bytes.Buffer {
	logger := logrus.StandardLogger()
	out, formatter, level := logger.Out, logger.Formatter, logger.Level
	t.Cleanup(func() {
		logrus.SetOutput(out)
		logrus.SetFormatter(formatter)
		logrus.SetLevel(level)
	})
	written := &bytes.Buffer{}
	logrus.SetOutput(written)
	logrus.SetLevel(logrus.InfoLevel)
	logrus.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
	return written
}

func TestExitStatus(t *testing.T) {
	for _, tc := range []struct {
		name    string
		err     error
		settled bool
		status  int
		log     string
	}{
		{"no error", nil, true, 0, ""},
		{"no error, whatever was written", nil, false, 0, ""},
		{"stdin ended at a checkpoint", errStdinClosed, true, 0, ""},
		{"a signal at a checkpoint", fmt.Errorf("stop: %w", errTerminated), true, 0, ""},
		{
			"stdin ended behind one", errStdinClosed, false, 1,
			"level=error msg=\"the runtime closed our input: stopping: documents behind the last checkpoint were already written\"\n",
		},
		{
			"a signal behind one", errTerminated, false, 1,
			"level=error msg=\"terminated by a signal: documents behind the last checkpoint were already written\"\n",
		},
		{"a failure", errors.New(" why it failed\n"), true, 1, "level=error msg=\"why it failed\"\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			written := keepLogging(t)
			if status := exitStatus(tc.err, tc.settled); status != tc.status || written.String() != tc.log {
				t.Errorf("status %d, log %q; want %d, %q", status, written, tc.status, tc.log)
			}
		})
	}
}

func TestSetUpLogging(t *testing.T) {
	for _, tc := range []struct {
		format, level string
		want          logrus.Level
		wantErr       string
	}{
		{"", "", logrus.InfoLevel, ""},
		{"json", "debug", logrus.DebugLevel, ""},
		{"text", "WARN", logrus.WarnLevel, ""},
		{"color", "trace", logrus.TraceLevel, ""},
		{"xml", "info", 0, `LOG_FORMAT "xml" is not one of json, text, color`},
		{"json", "loud", 0, `LOG_LEVEL "loud" is not one of trace, debug, info, warn, error`},
	} {
		t.Run(tc.format+" "+tc.level, func(t *testing.T) {
			keepLogging(t)
			err := setUpLogging(tc.format, tc.level)
			if errorText(err) != tc.wantErr || err == nil && logrus.GetLevel() != tc.want {
				t.Errorf("level %s, error %q; want %s, %q", logrus.GetLevel(), errorText(err), tc.want, tc.wantErr)
			}
			if _, isJSON := logrus.StandardLogger().Formatter.(*logrus.JSONFormatter); isJSON != (tc.format == "json") {
				t.Errorf("format %T", logrus.StandardLogger().Formatter)
			}
		})
	}
}
