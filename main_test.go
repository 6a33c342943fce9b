package main

// main_test.go lets the test binary be the connector, a person's command or the scripted connector of the driver's
// tests: what runs as a child process is then built as the tests are, with -race and -tags invariants.

import (
	"os"
	"testing"
	"time"
)

const testMainVariable = "SOURCE_POSTGRES_TEST_MAIN"

// testPatienceVariable holds how long a connector bears silence and stalls, for tests that wait for it to lose patience.
const testPatienceVariable = "SOURCE_POSTGRES_TEST_PATIENCE"

// testHurryVariable holds how long a connector waits at most for what it does now and then, such as a look into the catalog.
const testHurryVariable = "SOURCE_POSTGRES_TEST_HURRY"

func TestMain(m *testing.M) {
	switch os.Getenv(testMainVariable) {
	case "connector":
		if text := os.Getenv(testPatienceVariable); text != "" {
			patience, err := time.ParseDuration(text)
			if err != nil {
				panic(err)
			}
			answerLimit, silenceLimit, stallLimit, statusInterval = patience, patience, patience, patience/4
		}
		if text := os.Getenv(testHurryVariable); text != "" {
			var err error
			if hurry, err = time.ParseDuration(text); err != nil {
				panic(err)
			}
		}
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
