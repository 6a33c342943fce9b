// main_logging.go owns how logs look and how much is logged, for the runtime and for a person alike.
// Invariant: logs go to stderr alone, as stdout is the protocol's.

package main

import (
	"fmt"
	"os"

	"github.com/sirupsen/logrus"
)

func setUpLogging(format, level string) error {
	logrus.SetOutput(os.Stderr)
	switch format {
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	case "text":
		logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true})
	case "", "color":
		logrus.SetFormatter(&logrus.TextFormatter{ForceColors: format == "color", FullTimestamp: true})
	default:
		return fmt.Errorf("LOG_FORMAT %q is not one of json, text, color", format)
	}
	parsed, err := parseLogLevel("LOG_LEVEL", level)
	if err != nil {
		return err
	}
	logrus.SetLevel(parsed)
	return nil
}

// parseLogLevel parses what the variable or flag name says; nothing is info.
func parseLogLevel(name, level string) (logrus.Level, error) {
	if level == "" {
		return logrus.InfoLevel, nil
	}
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return 0, fmt.Errorf("%s %q is not one of trace, debug, info, warn, error", name, level)
	}
	return parsed, nil
}
