package main

// main_test.go lets the test binary be the connector, a person's command or the scripted connector of the driver's
// tests: what runs as a child process is then built as the tests are, with -race and -tags invariants.

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

const testMainVariable = "SOURCE_POSTGRES_TEST_MAIN"

// testPatienceVariable holds how long a connector bears silence and stalls, for tests that wait for it to lose patience.
const testPatienceVariable = "SOURCE_POSTGRES_TEST_PATIENCE"

// testHurryVariable holds how long a connector waits at most for what it does now and then, such as a look into the catalog.
const testHurryVariable = "SOURCE_POSTGRES_TEST_HURRY"

// suiteTime is how long all tests with a server may take without -long: twice as long as on two idle cores.
const suiteTime = 15 * time.Minute

// warnOfDeadline says so in one line if go test may end all tests with a server before they are done.
func warnOfDeadline() {
	given := func(name string) string { return flag.Lookup("test." + name).Value.String() }
	if os.Getenv("TEST_DATABASE") != "yes" || testing.Short() || given("run")+given("skip")+given("list")+given("bench")+given("fuzz") != "" {
		return
	}
	if limit, err := time.ParseDuration(given("timeout")); err == nil && limit > 0 && limit < suiteTime {
		fmt.Fprintf(os.Stderr, "These tests take up to %s with a server, and go test ends them after %s: "+
			"give it -timeout 60m, as make test does.\n", suiteTime, limit)
	}
}

// testLargeVariable holds how many bytes of documents of a transaction are put out before there is a checkpoint inside of it.
const testLargeVariable = "SOURCE_POSTGRES_TEST_LARGE_TRANSACTION"

func TestMain(m *testing.M) {
	switch os.Getenv(testMainVariable) {
	case "connector":
		if text := os.Getenv(testPatienceVariable); text != "" {
			patience, err := time.ParseDuration(text)
			if err != nil {
				panic(err)
			}
			answerLimit, silenceLimit, stallLimit, statusInterval, sshSilence = patience, patience, patience, patience/4, patience
		}
		if text := os.Getenv(testHurryVariable); text != "" {
			var err error
			if hurry, err = time.ParseDuration(text); err != nil {
				panic(err)
			}
		}
		if text := os.Getenv(testLargeVariable); text != "" {
			var err error
			if largeTransaction, err = strconv.Atoi(text); err != nil {
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
	flag.Parse()
	warnOfDeadline()
	status := m.Run()
	if failpointFolder != "" {
		os.RemoveAll(failpointFolder)
	}
	os.Exit(status)
}
