// discovery_checker.go owns what the checks of the server share: what is asked of each table, what was found, and the faults, each with
// the tables that it concerns and its remedy.
// Invariant: a run of the checks ends with all faults that it could find, in one error.

package main

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// requirement is one table that a capture binds.
type requirement struct {
	table tableName
	key   []string // columns of the collection key; nil for a keyless binding
}

// checkedCapture is how far the capture is that is checked.
type checkedCapture uint8

const (
	checkFirst    checkedCapture = iota // it has no place in the stream yet
	checkResumed                        // it has: what does it no harm is a warning, as a restart must not make an outage of it
	checkCaptured                       // and all that it captures is streaming: nothing is written that seems to be as it must
	checkRunning                        // it goes on: the publication may have been renamed for a moment, and another is not to take its place
)

// fault is one thing that keeps the capture, or bindings of it, from running.
type fault struct {
	tables []tableName // whose bindings alone it concerns; none: the whole capture
	text   string
	usage  string // a statement in the text that other faults may have, too
}

// besides returns the fault's text without the statement that is told already.
func (f *fault) besides() string {
	if text := strings.Replace(f.text, f.usage+" ", "", 1); text != f.text {
		return text
	}
	return strings.Replace(f.text, "Run: "+f.usage, "The statement for that is above", 1)
}

// checker is one run of the checks on one connection.
type checker struct {
	db     *database
	s      *settings
	conn   *pgx.Conn
	tables []requirement
	of     checkedCapture

	unwritten bool // our row could not be written, which is told
	stands    bool // it was there, and was left as it is

	captured map[tableName]bool // before, with the same key

	server      serverFacts
	publication *publicationFacts // nil: there is none
	found       map[tableName]*tableFacts
	held        map[uint32][]replicaIdentity // by OID of a bound table, the relations that hold its rows; nil until they were read

	watermarksMissing bool // and not to be created by us: told

	faults   []fault
	warnings []string
	untold   map[tableName]string // captured tables whose replica identity lacks the key, with the fault it would be for others
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fault{text: fmt.Sprintf(format, args...)})
}

func (c *checker) tableFault(t tableName, format string, args ...any) {
	c.faults = append(c.faults, fault{tables: []tableName{t}, text: fmt.Sprintf(format, args...)})
}

// usage is the statement that lets our role use a schema, which the last fault's text has; in one error it is told once.
func (c *checker) usage(schema string) string {
	return fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", quoteIdent(schema), quoteIdent(c.user()))
}

func (c *checker) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// user is the role in force, or the configured one if that is not known.
func (c *checker) user() string {
	if c.server.User != "" {
		return c.server.User
	}
	return c.s.user
}

// faultsError is all faults in one error, nil without any.
func faultsError(faults []fault) error {
	if len(faults) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("the database is not ready for this capture:")
	told := make(map[string]bool)
	for i, f := range faults {
		if i == maxFaults {
			fmt.Fprintf(&b, "\n  - and %d more", len(faults)-i)
			break
		}
		text := f.text
		if f.usage != "" && told[f.usage] {
			text = f.besides()
		}
		told[f.usage] = true
		b.WriteString("\n  - " + text)
	}
	return &userError{b.String()}
}

// serverFacts are settings and rights. What a version does not have is "".
type serverFacts struct {
	User               string `json:"user"`    // the role in force, by whose rights tables are read (ALTER ROLE … SET role)
	Session            string `json:"session"` // the role that logged in, by whose rights we replicate (postinit.c, InitPostgres)
	Application        string `json:"application"`
	Replication        bool   `json:"replication"`
	WALLevel           string `json:"wal_level"`
	EffectiveWALLevel  string `json:"effective_wal_level"`
	SynchronousNames   string `json:"synchronous_standby_names"`
	SynchronizedSlots  string `json:"synchronized_standby_slots"`
	HotStandbyFeedback string `json:"hot_standby_feedback"`
	IdleSlotTimeout    string `json:"idle_replication_slot_timeout"`
	MaxSlots           int    `json:"max_slots"`
	MaxSenders         int    `json:"max_senders"`
	Slots              int    `json:"slots"`
	Senders            int    `json:"senders"`
}

// publicationFacts is a row of pg_publication. What a version does not have is nil.
type publicationFacts struct {
	AllTables bool   `json:"puballtables"`
	Insert    bool   `json:"pubinsert"`
	Update    bool   `json:"pubupdate"`
	Delete    bool   `json:"pubdelete"`
	Truncate  *bool  `json:"pubtruncate"`
	ViaRoot   *bool  `json:"pubviaroot"`
	Generated string `json:"pubgencols"` // s: stored generated columns are sent
	Owned     bool   `json:"owned"`      // our role may alter it
}

// tableFacts is what the catalog says of a name that the capture wants. A schema or table that does not exist has no OID.
type tableFacts struct {
	Schema      string   `json:"schema"`
	Name        string   `json:"name"`
	SchemaOID   uint32   `json:"schema_oid"`
	OID         uint32   `json:"oid"`
	Kind        string   `json:"kind"`
	Persistence string   `json:"persistence"`
	Usage       bool     `json:"usage"`        // of the schema
	Select      bool     `json:"select"`       // of the table or some columns
	RowSecurity bool     `json:"row_security"` // hides rows from our role
	Owned       bool     `json:"owned"`        // our role may alter it
	PrimaryKey  bool     `json:"primary_key"`  // it has one that is checked at once
	Unreadable  []string `json:"unreadable"`   // columns that the publication sends and our role may not read, though others
	Published   bool     `json:"published"`
	Columns     []string `json:"columns"`  // that the publication sends, nil before version 15
	List        bool     `json:"list"`     // they are a column list
	Filter      []string `json:"filter"`   // columns that the row filter looks at
	Where       string   `json:"where"`    // the row filter
	Ancestor    string   `json:"ancestor"` // a published ancestor of a partition
}
