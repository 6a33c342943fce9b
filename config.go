package main

import (
	"encoding/json"
	"time"
)

// settings are the endpoint config, checked and in the program's own terms.
type settings struct {
	host     string
	port     uint16
	user     string
	password string
	database string

	historyMode bool

	includeSchemas      []string // empty: all
	excludeSchemas      []string
	tablePatterns       []tablePattern // empty: all
	discoverUnpublished bool
	captureAsPartitions bool

	publication    string
	slot           string
	watermarks     tableName
	skipAll        bool
	skipBackfills  map[string]bool // lower-cased schema.table
	chunkRows      int
	sslmode        string
	sslRootCert    string // PEM
	sslClientCert  string // PEM
	sslClientKey   string // PEM
	minBackfillXID string // decimal, "" for none
	readOnly       bool
	sourceTag      string

	rediscoveryInterval time.Duration
	statementTimeout    time.Duration // 0: none

	onSlotLoss   string // fail or backfill
	onTruncate   string // ignore or backfill
	failoverSlot bool

	flags featureFlags
}

// featureFlags are advanced.feature_flags, defaults applied (spec/incumbent.md §2.1).
type featureFlags struct {
	useSchemaInference     bool
	emitSourcedSchemas     bool
	dateAsDate             bool
	timeAsTime             bool
	flattenArrays          bool
	multidimensionalArrays bool
	createReplicationSlot  bool
	skipPrerequisites      bool
	skipTablePrerequisites bool
	initialBackfillCursor  lsn // 0: none
	forceResetCursor       lsn // 0: none
}

// tablePattern is one compiled glob of discoveryFilters.table_patterns.
type tablePattern struct{}

func (p tablePattern) matches(t tableName) bool { panic("stub") }

// backfillMode is a resource's mode; its text is what the user wrote.
type backfillMode string

const (
	modeAutomatic   backfillMode = ""
	modeNormal      backfillMode = "Normal"
	modePrecise     backfillMode = "Precise"
	modeOnlyChanges backfillMode = "Only Changes"
	modeKeyless     backfillMode = "Without Primary Key"
)

// resource is one binding's resource config.
type resource struct {
	table      tableName
	mode       backfillMode
	priority   int
	primaryKey []string // scan key override, nil for none
	filter     string   // additional_backfill_filter
}

// parseConfig parses and checks the endpoint config strictly. Every fault found is in the error.
func parseConfig(raw json.RawMessage) (*settings, error) { panic("stub") }

// parseResource parses and checks one resource config strictly.
func parseResource(raw json.RawMessage) (resource, error) { panic("stub") }

func (s *settings) skipsBackfill(t tableName) bool { panic("stub") }

// encodeOptions returns the options that shape values.
func (s *settings) encodeOptions() encodeOptions { panic("stub") }

// configSchema and resourceSchema are the Spec response's schemas, one line each.
func configSchema() json.RawMessage   { panic("stub") }
func resourceSchema() json.RawMessage { panic("stub") }

// userError is an error whose text is for the operator: what is wrong and how to fix it.
type userError struct{ msg string }

func (e *userError) Error() string { return e.msg }
