// config.go owns what the user wrote: the endpoint config and the resource configs, parsed once into settings the
// program uses, and the schemas that describe them (schemas/*.json).
//
// Invariant: settings are complete and checked. A property is known, of its type and in force, or it is refused by
// name; and no value of a property that can hold a secret is in an error or in the text of settings.

package main

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // the schemas
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
)

// settings are the endpoint config, checked and in the program's own terms.
type settings struct {
	host     string // name or address; IPv6 without brackets
	port     uint16
	user     string
	password string
	iam      *iamLogin // in place of password; nil for none
	database string
	ssh      *sshSettings // of the tunnel; nil for none

	plainPassword bool // the server takes the password as it is, without SCRAM; found out by the first login

	historyMode bool

	includeSchemas      []string // empty: all
	excludeSchemas      []string
	tablePatterns       []tablePattern // empty: all
	tableGlobs          []string       // what they were made of
	discoverUnpublished bool
	captureAsPartitions bool

	publication    string
	slot           string
	watermarks     tableName
	skipAll        bool
	skipBackfills  map[string]bool // lower-cased schema.table
	chunkRows      int
	sslmode        string // as libpq's, never empty; with sslRootCert it is verify-ca or verify-full
	channelBinding string // as libpq's, never empty
	sslRootCert    string // PEM
	sslClientCert  string // PEM, set when and only when sslClientKey is
	sslClientKey   string // PEM
	minBackfillXID string // decimal, "" for none
	readOnly       bool
	sourceTag      string

	rediscoveryInterval time.Duration
	statementTimeout    time.Duration // 0: none

	onSlotLoss   string // fail or backfill
	onTruncate   string // ignore, backfill or mark
	failoverSlot bool

	flags        featureFlags
	unknownFlags []string // names in feature_flags that mean nothing to us, for the log
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
	emitBackfillMarkers    bool
	initialBackfillCursor  lsn // 0: none
	forceResetCursor       lsn // 0: none
}

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
	filter     string   // additional_backfill_filter: SQL as the user wrote it, which may end in a comment
}

const (
	defaultPort             = "5432"
	defaultChunkRows        = 50_000
	defaultStatementTimeout = 2 * time.Minute
	minRediscoveryInterval  = time.Minute
	maxRediscoveryInterval  = 365 * 24 * time.Hour
	maxStatementTimeout     = math.MaxInt32 * time.Millisecond // the server's setting is an int of milliseconds
	maxIdentifierBytes      = 63                               // NAMEDATALEN - 1
)

// parseConfig parses and checks the endpoint config strictly. Every fault found is in the error, a *userError.
func parseConfig(raw json.RawMessage) (*settings, error) {
	found := &faults{}
	root := parseObject(raw, "", found)
	if root.broken {
		return nil, found.err("endpoint config")
	}
	s := &settings{}

	if address := root.required("address", "set it to host or host:port, such as db.example.com:5432"); address != "" {
		s.host, s.port = parseAddress(address, found)
	}
	s.user = root.required("user", "set it to the database role that captures, such as flow_capture")
	s.database = cmp.Or(root.text("database"), "postgres")
	s.historyMode = root.flag("historyMode")
	legacyPassword := root.text("password")
	filters := root.object("discoveryFilters")
	advanced := root.object("advanced")
	s.password, s.iam = parseCredentials(root.object("credentials"), legacyPassword, advanced.has("ssl_client_cert"), found)
	s.parseDiscovery(filters, advanced)
	s.parseNames(advanced)
	s.parseBackfill(advanced)
	s.parseTLS(advanced)
	s.parseTimes(advanced)
	s.onSlotLoss = advanced.choice("on_slot_loss", "fail", "backfill")
	s.failoverSlot = advanced.flag("failover_slot")
	s.readOnly = advanced.flag("read_only_capture")
	s.sourceTag = advanced.text("source_tag")
	s.parseFlags(advanced)
	s.parseTruncate(advanced)

	tunnel := root.object("networkTunnel")
	forwarding := tunnel.object("sshForwarding")
	s.ssh = parseSSH(forwarding)

	for _, o := range []*object{root, filters, advanced, tunnel, forwarding} {
		o.refuseRest()
	}
	if err := found.err("endpoint config"); err != nil {
		return nil, err
	}
	return s, nil
}

// parseCredentials returns the password, which may be empty where a client certificate proves who we are, or how to log in without
// one. Properties of the other kinds of credentials are
// accepted beside those of one, because forms leave them behind when the kind is changed, as the runtime leaves tokens.
func parseCredentials(o *object, legacyPassword string, certified bool, found *faults) (password string, iam *iamLogin) {
	if o.props == nil {
		if legacyPassword == "" && !o.broken && !certified {
			found.add("credentials are missing: set credentials.auth_type to UserPassword and credentials.password " +
				"to the role's password")
		}
		return legacyPassword, nil
	}
	switch kind := o.text("auth_type"); kind {
	case "", authPassword:
		if certified {
			password = o.text("password")
		} else {
			password = o.required("password", "set it to the role's password")
		}
	case authAWS, authGCP, authAzure:
		iam = parseIAM(kind, o)
	default:
		found.add("credentials.auth_type is none of UserPassword, AWSIAM, GCPIAM, AzureIAM: set it to UserPassword")
	}
	o.tolerate("password", "aws_region", "aws_role_arn", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
		"gcp_service_account_to_impersonate", "gcp_workload_identity_pool_audience", "gcp_access_token",
		"azure_client_id", "azure_tenant_id", "azure_access_token")
	o.refuseRest()
	return password, iam
}

// parseAddress reads the address property. An error shows it only where it can hold no password, as a URL can.
func parseAddress(address string, found *faults) (host string, port uint16) {
	const want = "set it to host or host:port, such as db.example.com:5432"
	address = strings.TrimSpace(address)
	if strings.ContainsAny(address, "/@?, \t\n") {
		found.add("address is not a host name but something longer, such as a URL or a list: %s", want)
		return "", 0
	}
	host, portText, ok := splitAddress(address, defaultPort)
	if !ok {
		found.add("address %q cannot be split into host and port: %s", address, want)
		return "", 0
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		found.add("address %q has no valid port: it must be a number from 1 to 65535", address)
	}
	if strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), ".pooler.supabase.com") {
		found.add("address %q is a connection pooler, through which no replication is possible: set it to the "+
			"direct address of the database, such as db.<project>.supabase.co:5432", address)
	}
	return host, uint16(n)
}

func (s *settings) parseDiscovery(filters, advanced *object) {
	found := filters.found
	s.includeSchemas = trimmed(filters.list("include_schemas"))
	for i, name := range s.includeSchemas {
		if strings.TrimSpace(name) == "" {
			found.add("discoveryFilters.include_schemas[%d] is blank: remove it, or name a schema", i)
		}
	}
	for i, name := range trimmed(advanced.list("discover_schemas")) {
		if strings.TrimSpace(name) == "" {
			found.add("advanced.discover_schemas[%d] is blank: remove it, or name a schema", i)
		}
		if !slices.Contains(s.includeSchemas, name) {
			s.includeSchemas = append(s.includeSchemas, name)
		}
	}
	s.excludeSchemas = trimmed(filters.list("exclude_schemas"))
	s.tableGlobs = trimmed(filters.list("table_patterns"))
	for i, glob := range s.tableGlobs {
		p, err := compileTablePattern(glob)
		if err != nil {
			found.add("discoveryFilters.table_patterns[%d] %q %w", i, glob, err)
		}
		s.tablePatterns = append(s.tablePatterns, p)
	}
	unpublished := advanced.flag("discover_unpublished_tables")
	s.discoverUnpublished = filters.flag("discover_unpublished_tables") || unpublished
	advanced.flag("discover_only_published") // once its opposite's default; without effect
	s.captureAsPartitions = advanced.flag("capture_as_partitions")
}

// trimmed cuts the blanks around each name.
func trimmed(names []string) []string {
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// slotNames are the names the server takes (slot.c, ReplicationSlotValidateName).
var slotNames = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

func (s *settings) parseNames(advanced *object) {
	found := advanced.found
	// Blanks around a name are none of it: a second publication, or slot, would be made for one.
	s.publication = cmp.Or(strings.TrimSpace(advanced.text("publicationName")), "flow_publication")
	if len(s.publication) > maxIdentifierBytes {
		found.add("advanced.publicationName has %d bytes: the server's names have at most %d",
			len(s.publication), maxIdentifierBytes)
	}
	// Names in replication commands that are not quoted, as the incumbent's are not, have their capitals made small.
	s.slot = strings.ToLower(cmp.Or(strings.TrimSpace(advanced.text("slotName")), "flow_slot"))
	if !slotNames.MatchString(s.slot) {
		found.add("advanced.slotName %q is no name for a slot: use 1 to 63 characters, each a lower-case letter a "+
			"to z, a digit or an underscore", s.slot)
	}
	watermarks := cmp.Or(strings.TrimSpace(advanced.text("watermarksTable")), "public.flow_watermarks")
	var ok bool
	if s.watermarks, ok = parseTableName(watermarks); !ok {
		found.add("advanced.watermarksTable %q is not of the form schema.table, such as public.flow_watermarks", watermarks)
	}
}

// parseTableName splits schema.table at its first dot. As in SQL, where the incumbent puts the text as it is, a part in
// double quotes is meant exactly, a dot in it being plain and a quote doubled, and a plain part in lower case.
func parseTableName(text string) (t tableName, ok bool) {
	schema, rest, ok := cutName(text, ".")
	if !ok || !strings.HasPrefix(rest, ".") {
		return tableName{}, false
	}
	name, rest, ok := cutName(rest[1:], "")
	return tableName{schema: schema, name: name}, ok && rest == "" && schema != "" && name != ""
}

// cutName takes a name off the start of text: a quoted one, or what stands before end, of which "" is that of text.
func cutName(text, end string) (name, rest string, ok bool) {
	if !strings.HasPrefix(text, `"`) {
		i := len(text)
		if end != "" {
			i = strings.Index(text, end)
		}
		if i < 0 || strings.Contains(text[:i], `"`) {
			return "", "", false
		}
		return strings.ToLower(strings.TrimSpace(text[:i])), text[i:], true
	}
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if strings.HasPrefix(text[i+1:], `"`) {
			i++
			continue
		}
		return strings.ReplaceAll(text[1:i], `""`, `"`), text[i+1:], true
	}
	return "", "", false
}

func (s *settings) parseBackfill(advanced *object) {
	found := advanced.found
	s.skipBackfills = map[string]bool{}
	if list := advanced.text("skip_backfills"); strings.TrimSpace(list) != "" {
		for entry := range strings.SplitSeq(list, ",") {
			entry = strings.TrimSpace(entry)
			switch {
			case entry == "*.*":
				s.skipAll = true
			case !strings.Contains(entry, "."):
				found.add("advanced.skip_backfills has the entry %q, which is not of the form schema.table: write "+
					"tables as public.orders, with commas between them, or *.* for all", entry)
			default:
				s.skipBackfills[strings.ToLower(entry)] = true
			}
		}
	}
	if s.chunkRows = advanced.integer("backfill_chunk_size"); s.chunkRows <= 0 {
		s.chunkRows = defaultChunkRows
	}
	if text := advanced.text("min_backfill_xid"); text != "" {
		xid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			found.add("advanced.min_backfill_xid %q is no transaction ID: it must be digits only and at most "+
				"4294967295", text)
		}
		s.minBackfillXID = strconv.FormatUint(xid, 10)
	}
}

func (s *settings) parseTLS(advanced *object) {
	found := advanced.found
	s.sslmode = advanced.choice("sslmode", "prefer", "disable", "allow", "require", "verify-ca", "verify-full")
	s.channelBinding = advanced.choice("channel_binding", "prefer", "disable", "require")
	s.sslRootCert = pastedPEM(advanced.text("ssl_root_cert"))
	s.sslClientCert = pastedPEM(advanced.text("ssl_client_cert"))
	s.sslClientKey = pastedPEM(advanced.text("ssl_client_key"))
	if s.iam != nil {
		s.sslmode = s.iam.requireTLS(s.sslmode, s.channelBinding, found)
	}
	if s.channelBinding == "require" && s.sslmode == "disable" {
		found.add("advanced.channel_binding require needs TLS: set advanced.sslmode to require or verify-full")
	}
	if s.sslRootCert != "" {
		if !x509.NewCertPool().AppendCertsFromPEM([]byte(s.sslRootCert)) {
			found.add("advanced.ssl_root_cert holds no certificate: paste the PEM text, from BEGIN CERTIFICATE to " +
				"END CERTIFICATE")
		}
		switch s.sslmode {
		case "disable", "allow", "prefer":
			found.add("advanced.ssl_root_cert is of no effect with advanced.sslmode %s: set that to verify-full or "+
				"verify-ca, or remove the certificate", s.sslmode)
		case "require":
			s.sslmode = "verify-ca" // as libpq does where there is a root certificate
		}
	}
	switch {
	case s.sslClientCert == "" && s.sslClientKey == "":
	case s.sslClientCert == "" || s.sslClientKey == "":
		found.add("advanced.ssl_client_cert and advanced.ssl_client_key go together: set both or neither")
	case s.sslmode == "disable":
		found.add("advanced.ssl_client_cert is of no effect with advanced.sslmode disable: choose another mode or " +
			"remove the certificate")
	default:
		if _, err := tls.X509KeyPair([]byte(s.sslClientCert), []byte(s.sslClientKey)); err != nil {
			found.add("advanced.ssl_client_cert and advanced.ssl_client_key are no pair of certificate and key in "+
				"PEM form (%w): paste both whole, the key without a passphrase", err)
		}
	}
}

func (s *settings) parseTimes(advanced *object) {
	found := advanced.found
	interval := cmp.Or(advanced.text("rediscovery_interval"), "15m")
	var err error
	s.rediscoveryInterval, err = time.ParseDuration(interval)
	if err != nil || s.rediscoveryInterval < minRediscoveryInterval || s.rediscoveryInterval > maxRediscoveryInterval {
		found.add("advanced.rediscovery_interval %q is no time between 1m and 8760h (365 days): write it as 15m or "+
			"2h", interval)
	}
	s.statementTimeout = defaultStatementTimeout
	if text := advanced.text("statement_timeout"); text != "" {
		s.statementTimeout, err = time.ParseDuration(text)
		tooShort := s.statementTimeout != 0 && s.statementTimeout < time.Millisecond // the server would read none
		if err != nil || tooShort || s.statementTimeout > maxStatementTimeout {
			found.add("advanced.statement_timeout %q is no time between 1ms and 596h: write it as 30s or 5m, or 0 "+
				"for none", text)
		}
	}
}

// parseFlags reads the comma list of flags: a name turns one on, no_ before it off, and the last word on a flag
// counts. A cursor is a flag whose name goes on with =LSN.
func (s *settings) parseFlags(advanced *object) {
	f := &s.flags
	*f = featureFlags{
		useSchemaInference: true, emitSourcedSchemas: true, dateAsDate: true, timeAsTime: true, flattenArrays: true,
		createReplicationSlot: true,
	}
	switches := map[string]*bool{
		"use_schema_inference": &f.useSchemaInference, "emit_sourced_schemas": &f.emitSourcedSchemas,
		"date_as_date": &f.dateAsDate, "time_as_time": &f.timeAsTime, "flatten_arrays": &f.flattenArrays,
		"multidimensional_arrays": &f.multidimensionalArrays, "create_replication_slot": &f.createReplicationSlot,
		"skip_prerequisites": &f.skipPrerequisites, "skip_table_prerequisites": &f.skipTablePrerequisites,
		"emit_backfill_markers": &f.emitBackfillMarkers,
	}
	cursors := map[string]*lsn{
		"initial_backfill_cursor": &f.initialBackfillCursor, "force_reset_cursor": &f.forceResetCursor,
	}
	for entry := range strings.SplitSeq(advanced.text("feature_flags"), ",") {
		entry = strings.TrimSpace(entry)
		name, off := strings.CutPrefix(entry, "no_")
		name, value, hasValue := strings.Cut(name, "=")
		name = strings.TrimSpace(name)
		toggle, cursor := switches[name], cursors[name]
		switch {
		case entry == "":
		case toggle != nil && !hasValue:
			*toggle = !off
		case cursor != nil && off:
			*cursor = 0
		case cursor != nil:
			position, ok := parseLSN(strings.TrimSpace(value))
			if !ok {
				advanced.found.add("advanced.feature_flags sets %s to %q, which is no log position: write it as "+
					"%s=16/B374D848", name, value, name)
			}
			*cursor = position
		default:
			s.unknownFlags = append(s.unknownFlags, entry)
		}
	}
}

// parseTruncate reads what a TRUNCATE means. REQUIRES: the flags are read.
func (s *settings) parseTruncate(advanced *object) {
	if s.flags.emitBackfillMarkers {
		s.onTruncate = advanced.choice("on_truncate", "mark", "ignore", "backfill")
		return
	}
	if s.onTruncate = advanced.choice("on_truncate", "ignore", "backfill", "mark"); s.onTruncate == "mark" {
		advanced.found.add("advanced.on_truncate mark needs backfill markers: add emit_backfill_markers to advanced.feature_flags, " +
			"or set advanced.on_truncate to ignore or backfill")
	}
}

var lsnTexts = regexp.MustCompile(`^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$`)

// parseLSN reads the text form of a position other than 0/0.
func parseLSN(text string) (lsn, bool) {
	if !lsnTexts.MatchString(text) {
		return 0, false
	}
	position, err := pglogrepl.ParseLSN(text)
	return position, err == nil && position != 0
}

// parseResource parses and checks one resource config strictly. Every fault found is in the error, a *userError.
func parseResource(raw json.RawMessage) (resource, error) {
	found := &faults{}
	root := parseObject(raw, "", found)
	if root.broken {
		return resource{}, found.err("resource config")
	}
	r := resource{
		table: tableName{
			schema: root.required("namespace", "set it to the table's schema"),
			name:   root.required("stream", "set it to the table's name"),
		},
		priority: root.integer("priority"),
		mode: backfillMode(root.choice("mode", string(modeAutomatic),
			string(modeNormal), string(modePrecise), string(modeOnlyChanges), string(modeKeyless))),
		primaryKey: root.list("primary_key"),
	}
	root.text("syncMode") // without effect
	for i, column := range r.primaryKey {
		if column == "" {
			found.add("primary_key[%d] is empty: name a column of the table, or remove it", i)
		} else if slices.Index(r.primaryKey, column) < i {
			found.add("primary_key[%d] repeats the column %q: remove it", i, column)
		}
	}
	advanced := root.object("advanced")
	r.filter = advanced.text("additional_backfill_filter")
	if r.filter != "" {
		if strings.TrimSpace(r.filter) == "" {
			found.add("advanced.additional_backfill_filter is blank: remove it, or write an SQL condition")
		}
		if r.mode == modePrecise {
			found.add("advanced.additional_backfill_filter cannot be used in mode Precise, which needs every row " +
				"of a chunk: choose another mode, such as Normal, or remove the filter")
		}
	}
	root.refuseRest()
	advanced.refuseRest()
	subject := "resource config"
	if r.table.schema != "" && r.table.name != "" {
		subject += " of " + r.table.String()
	}
	if err := found.err(subject); err != nil {
		return resource{}, err
	}
	return r, nil
}

// skipsBackfill reports whether the user wants only changes of a table, whatever its mode.
func (s *settings) skipsBackfill(t tableName) bool {
	return s.skipAll || s.skipBackfills[strings.ToLower(t.String())]
}

// String tells settings apart in a log. It names what is safe to show and nothing else.
func (s settings) String() string {
	return fmt.Sprintf("user %s at %s, database %s, slot %s, publication %s",
		s.user, net.JoinHostPort(s.host, strconv.Itoa(int(s.port))), s.database, s.slot, s.publication)
}

// GoString keeps secrets out of %#v.
func (s settings) GoString() string { return s.String() }

// tablePattern is one compiled glob of discoveryFilters.table_patterns.
type tablePattern struct {
	schema *regexp.Regexp // nil: any
	name   *regexp.Regexp
}

func (p tablePattern) matches(t tableName) bool {
	return (p.schema == nil || p.schema.MatchString(t.schema)) && p.name.MatchString(t.name)
}

// compileTablePattern reads a glob: * is any run of characters, ? one character, \ takes the next one literally, and
// one dot divides the schema's pattern from the table's. An error continues a sentence about the glob.
func compileTablePattern(glob string) (tablePattern, error) {
	var parts []string
	var part strings.Builder
	escaped := false
	for _, c := range glob {
		switch {
		case escaped:
			part.WriteString(regexp.QuoteMeta(string(c)))
			escaped = false
		case c == '\\':
			escaped = true
		case c == '*':
			part.WriteString(".*")
		case c == '?':
			part.WriteString(".")
		case c == '.':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	parts = append(parts, part.String())
	switch {
	case escaped:
		return tablePattern{}, errors.New(`ends in a backslash that escapes nothing: double it, or remove it`)
	case len(parts) > 2:
		return tablePattern{}, errors.New(`has more than one dot: write schema.table, and \. for a dot inside a name`)
	case slices.Contains(parts, ""):
		return tablePattern{}, errors.New(
			`has an empty part, which no name matches: write table or schema.table, and * for any name`)
	}
	name, err := regexp.Compile(`(?s)\A` + parts[len(parts)-1] + `\z`)
	if err != nil {
		return tablePattern{}, fmt.Errorf("is too long (%w): write several patterns", err)
	}
	p := tablePattern{name: name}
	if len(parts) == 2 {
		if p.schema, err = regexp.Compile(`(?s)\A` + parts[0] + `\z`); err != nil {
			return tablePattern{}, fmt.Errorf("is too long (%w): write several patterns", err)
		}
	}
	return p, nil
}

// configSchema and resourceSchema are the Spec response's schemas, one line each. They are shared: not to be changed.
func configSchema() json.RawMessage   { return endpointSchemaLine }
func resourceSchema() json.RawMessage { return resourceSchemaLine }

var (
	//go:embed schemas/endpoint.json
	endpointSchemaText []byte
	//go:embed schemas/resource.json
	resourceSchemaText []byte

	endpointSchemaLine = compactJSON(endpointSchemaText)
	resourceSchemaLine = compactJSON(resourceSchemaText)
)

func compactJSON(text []byte) json.RawMessage {
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		panic("an embedded schema is not JSON: " + err.Error())
	}
	return line.Bytes()
}
