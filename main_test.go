package main

// main_test.go lets the test binary be the connector, a person's command or the scripted connector of the driver's
// tests: what runs as a child process is then built as the tests are, with -race and -tags invariants.

import (
	"os"
	"testing"
)

const testMainVariable = "SOURCE_POSTGRES_TEST_MAIN"

func TestMain(m *testing.M) {
	switch os.Getenv(testMainVariable) {
	case "connector":
		main()
		os.Exit(0)
	case "human":
		// Its child is what asked for the human.
		os.Setenv(testMainVariable, os.Getenv(testMainVariable+"_CHILD"))
		os.Exit(runHuman(os.Args[1:]))
	case "scripted":
		os.Exit(scriptedConnector())
	}
	status := m.Run()
	if failpointFolder != "" {
		os.RemoveAll(failpointFolder)
	}
	os.Exit(status)
}
