// Goal: every property of the incumbent's contract is read as it says, and whatever is wrong is named, all at once and
// without a secret. Method: tables with exact errors; the schemas walked against the parser and against the keywords the
// runtime knows; fuzzing for panics and leaked secrets.

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// configWith is a valid config with its properties at dotted paths replaced; nil removes one.
func configWith(t testing.TB, changes map[string]any) json.RawMessage {
	t.Helper()
	config := map[string]any{
		"address": "db.example.com", "user": "capture", "database": "shop", "historyMode": false,
		"credentials": map[string]any{"auth_type": "UserPassword", "password": "s3cr3t"},
	}
	for path, value := range changes {
		at, parts := config, strings.Split(path, ".")
		for _, part := range parts[:len(parts)-1] {
			next, ok := at[part].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[part] = next
			}
			at = next
		}
		if last := parts[len(parts)-1]; value == nil {
			delete(at, last)
		} else {
			at[last] = value
		}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func defaultSettings() settings {
	return settings{
		host: "db.example.com", port: 5432, user: "capture", password: "s3cr3t", database: "shop",
		publication: "flow_publication", slot: "flow_slot", watermarks: tableName{"public", "flow_watermarks"},
		skipBackfills: map[string]bool{}, chunkRows: 50_000, sslmode: "prefer", channelBinding: "prefer",
		rediscoveryInterval: 15 * time.Minute, statementTimeout: 2 * time.Minute,
		onSlotLoss: "fail", onTruncate: "ignore",
		flags: featureFlags{
			useSchemaInference: true, emitSourcedSchemas: true, dateAsDate: true, timeAsTime: true, flattenArrays: true,
			createReplicationSlot: true,
		},
	}
}

type configChanges = map[string]any

func TestParseConfig(t *testing.T) {
	certificate, key := testCertificate(t)
	for name, test := range map[string]struct {
		config configChanges
		want   func(*settings)
	}{
		"defaults": {nil, func(*settings) {}},
		"null is absent": {
			configChanges{"advanced": json.RawMessage("null"), "discoveryFilters": json.RawMessage(`{"include_schemas":null}`)},
			func(*settings) {},
		},
		"empty texts are absent": {
			configChanges{
				"database": "", "advanced.slotName": "", "advanced.publicationName": "", "advanced.watermarksTable": "",
				"advanced.sslmode": "", "advanced.rediscovery_interval": "", "advanced.statement_timeout": "",
				"advanced.min_backfill_xid": "", "advanced.skip_backfills": " ", "advanced.on_slot_loss": "",
				"advanced.feature_flags": "",
			},
			func(s *settings) { s.database = "postgres" },
		},
		"database defaults":   {configChanges{"database": nil}, func(s *settings) { s.database = "postgres" }},
		"port":                {configChanges{"address": " db:6543 "}, func(s *settings) { s.host, s.port = "db", 6543 }},
		"IPv4":                {configChanges{"address": "10.0.0.1:1"}, func(s *settings) { s.host, s.port = "10.0.0.1", 1 }},
		"IPv6":                {configChanges{"address": "::1"}, func(s *settings) { s.host = "::1" }},
		"IPv6 in brackets":    {configChanges{"address": "[::1]"}, func(s *settings) { s.host = "::1" }},
		"IPv6 with port":      {configChanges{"address": "[fe80::1%eth0]:65535"}, func(s *settings) { s.host, s.port = "fe80::1%eth0", 65535 }},
		"Supabase, direct":    {configChanges{"address": "db.abc.supabase.co"}, func(s *settings) { s.host = "db.abc.supabase.co" }},
		"legacy password":     {configChanges{"credentials": nil, "password": "old"}, func(s *settings) { s.password = "old" }},
		"two passwords":       {configChanges{"password": "old"}, func(*settings) {}},
		"no auth_type":        {configChanges{"credentials": configChanges{"password": " x "}}, func(s *settings) { s.password = " x " }},
		"left-over IAM":       {configChanges{"credentials.aws_region": "eu", "credentials.gcp_access_token": "t"}, func(*settings) {}},
		"empty tunnel":        {configChanges{"networkTunnel": configChanges{}}, func(*settings) {}},
		"empty tunnel inside": {configChanges{"networkTunnel.sshForwarding": configChanges{"sshEndpoint": ""}}, func(*settings) {}},
		"left-over key":       {configChanges{"networkTunnel.sshForwarding": configChanges{"privateKey": "s3cr3t"}}, func(*settings) {}},
		"names": {
			configChanges{
				"historyMode": true, "advanced.publicationName": "Pub 1", "advanced.slotName": "Slot_9",
				"advanced.source_tag": "tag", "advanced.read_only_capture": true, "advanced.capture_as_partitions": true,
				"advanced.discover_only_published": true,
			},
			func(s *settings) {
				s.historyMode, s.publication, s.slot, s.sourceTag = true, "Pub 1", "slot_9", "tag"
				s.readOnly, s.captureAsPartitions = true, true
			},
		},
		"discovery": {
			configChanges{
				"discoveryFilters.include_schemas": []string{"a", "b"}, "advanced.discover_schemas": []string{"b", "C"},
				"discoveryFilters.exclude_schemas": []string{"x", ""}, "discoveryFilters.discover_unpublished_tables": true,
			},
			func(s *settings) {
				s.includeSchemas, s.excludeSchemas = []string{"a", "b", "C"}, []string{"x", ""}
				s.discoverUnpublished = true
			},
		},
		"unpublished, advanced": {configChanges{"advanced.discover_unpublished_tables": true}, func(s *settings) { s.discoverUnpublished = true }},
		"watermarks":            {configChanges{"advanced.watermarksTable": "Ops.marks.v2"}, func(s *settings) { s.watermarks = tableName{"ops", "marks.v2"} }},
		"watermarks, quoted":    {configChanges{"advanced.watermarksTable": `"a.""b".marks`}, func(s *settings) { s.watermarks = tableName{`a."b`, "marks"} }},
		"watermarks, quoted name": {
			configChanges{"advanced.watermarksTable": `ops."Marks"`}, func(s *settings) { s.watermarks = tableName{"ops", "Marks"} },
		},
		"backfill": {
			configChanges{
				"advanced.skip_backfills": "public.A, sales.orders,x.y.z", "advanced.backfill_chunk_size": 10,
				"advanced.min_backfill_xid": "04294967295",
			},
			func(s *settings) {
				s.skipBackfills = map[string]bool{"public.a": true, "sales.orders": true, "x.y.z": true}
				s.chunkRows, s.minBackfillXID = 10, "4294967295"
			},
		},
		"skip all":           {configChanges{"advanced.skip_backfills": "*.*"}, func(s *settings) { s.skipAll = true }},
		"chunk size 0":       {configChanges{"advanced.backfill_chunk_size": 0}, func(*settings) {}},
		"chunk size below 0": {configChanges{"advanced.backfill_chunk_size": -5}, func(*settings) {}},
		"chunk size, float":  {configChanges{"advanced.backfill_chunk_size": json.RawMessage("1.0e3")}, func(s *settings) { s.chunkRows = 1000 }},
		"times": {
			configChanges{"advanced.rediscovery_interval": "1m", "advanced.statement_timeout": "7s"},
			func(s *settings) { s.rediscoveryInterval, s.statementTimeout = time.Minute, 7*time.Second },
		},
		"times at the ends": {
			configChanges{"advanced.rediscovery_interval": "8760h", "advanced.statement_timeout": "0"},
			func(s *settings) { s.rediscoveryInterval, s.statementTimeout = 365*24*time.Hour, 0 },
		},
		"policies": {
			configChanges{"advanced.on_slot_loss": "backfill", "advanced.on_truncate": "backfill", "advanced.failover_slot": false},
			func(s *settings) { s.onSlotLoss, s.onTruncate = "backfill", "backfill" },
		},
		"markers": {
			configChanges{"advanced.feature_flags": "emit_backfill_markers"},
			func(s *settings) { s.flags.emitBackfillMarkers, s.onTruncate = true, "mark" },
		},
		"markers, mark": {
			configChanges{"advanced.feature_flags": "emit_backfill_markers", "advanced.on_truncate": "mark"},
			func(s *settings) { s.flags.emitBackfillMarkers, s.onTruncate = true, "mark" },
		},
		"markers, ignored": {
			configChanges{"advanced.feature_flags": "emit_backfill_markers", "advanced.on_truncate": "ignore"},
			func(s *settings) { s.flags.emitBackfillMarkers = true },
		},
		"markers, off": {
			configChanges{"advanced.feature_flags": "emit_backfill_markers,no_emit_backfill_markers", "advanced.on_truncate": ""},
			func(*settings) {},
		},
		"TLS": {
			configChanges{
				"advanced.sslmode": "verify-full", "advanced.ssl_root_cert": certificate,
				"advanced.ssl_client_cert": certificate, "advanced.ssl_client_key": key,
			},
			func(s *settings) {
				s.sslmode, s.sslRootCert, s.sslClientCert, s.sslClientKey = "verify-full", certificate, certificate, key
			},
		},
		"TLS, require with a root": {
			configChanges{"advanced.sslmode": "require", "advanced.ssl_root_cert": certificate},
			func(s *settings) { s.sslmode, s.sslRootCert = "verify-ca", certificate },
		},
		"flags": {
			configChanges{"advanced.feature_flags": " no_date_as_date,no_time_as_time , no_flatten_arrays,multidimensional_arrays,no_use_schema_inference," +
				"no_emit_sourced_schemas,no_create_replication_slot,skip_prerequisites,skip_table_prerequisites,,no_new_thing,x=1"},
			func(s *settings) {
				s.flags = featureFlags{multidimensionalArrays: true, skipPrerequisites: true, skipTablePrerequisites: true}
				s.unknownFlags = []string{"no_new_thing", "x=1"}
			},
		},
		"flags, last word": {configChanges{"advanced.feature_flags": "no_date_as_date,date_as_date"}, func(*settings) {}},
		"flags, cursors": {
			configChanges{"advanced.feature_flags": "initial_backfill_cursor=16/b374D848,force_reset_cursor = 0/1"},
			func(s *settings) { s.flags.initialBackfillCursor, s.flags.forceResetCursor = 0x16B374D848, 1 },
		},
		"flags, cursor off": {
			configChanges{"advanced.feature_flags": "force_reset_cursor=0/1,no_force_reset_cursor=0/1"}, func(*settings) {},
		},
	} {
		got, err := parseConfig(configWith(t, test.config))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := defaultSettings()
		test.want(&want)
		if !reflect.DeepEqual(*got, want) {
			t.Errorf("%s:\n got %#v\nwant %#v", name, plainSettings(*got), plainSettings(want))
		}
	}
}

type plainSettings settings // without the methods that hide

func TestParseConfigFaults(t *testing.T) {
	certificate, key := testCertificate(t)
	otherCertificate, _ := testCertificate(t)
	const addressRemedy = ": set it to host or host:port, such as db.example.com:5432"
	for name, test := range map[string]struct {
		config configChanges
		want   string
	}{
		"address missing":  {configChanges{"address": nil}, "address is missing" + addressRemedy},
		"address empty":    {configChanges{"address": ""}, "address is missing" + addressRemedy},
		"address blank":    {configChanges{"address": " "}, `address "" cannot be split into host and port` + addressRemedy},
		"address number":   {configChanges{"address": 5}, "address must be a string, but is a number: put it in quotes"},
		"address URL":      {configChanges{"address": "postgres://u:s3cr3t@h/db"}, "address is not a host name but something longer, such as a URL or a list" + addressRemedy},
		"address list":     {configChanges{"address": "a,b"}, "address is not a host name but something longer, such as a URL or a list" + addressRemedy},
		"address colons":   {configChanges{"address": "a:b:5"}, `address "a:b:5" cannot be split into host and port` + addressRemedy},
		"address no host":  {configChanges{"address": ":5432"}, `address ":5432" cannot be split into host and port` + addressRemedy},
		"address brackets": {configChanges{"address": "[db]:5432"}, `address "[db]:5432" cannot be split into host and port` + addressRemedy},
		"address bracket":  {configChanges{"address": "[::1"}, `address "[::1" cannot be split into host and port` + addressRemedy},
		"port 0":           {configChanges{"address": "db:0"}, `address "db:0" has no valid port: it must be a number from 1 to 65535`},
		"port large":       {configChanges{"address": "db:65536"}, `address "db:65536" has no valid port: it must be a number from 1 to 65535`},
		"port empty":       {configChanges{"address": "[::1]:"}, `address "[::1]:" has no valid port: it must be a number from 1 to 65535`},
		"pooler": {
			configChanges{"address": "aws-0-eu.Pooler.supabase.com:6543"},
			`address "aws-0-eu.Pooler.supabase.com:6543" is a connection pooler, through which no replication is possible: set it to the direct address of the database, such as db.<project>.supabase.co:5432`,
		},
		"user":             {configChanges{"user": nil}, "user is missing: set it to the database role that captures, such as flow_capture"},
		"no credentials":   {configChanges{"credentials": nil}, "credentials are missing: set credentials.auth_type to UserPassword and credentials.password to the role's password"},
		"no password":      {configChanges{"credentials.password": ""}, "credentials.password is missing: set it to the role's password"},
		"password number":  {configChanges{"credentials.password": 12345}, "credentials.password must be a string, but is a number: put it in quotes"},
		"credentials text": {configChanges{"credentials": "s3cr3t"}, "credentials must be an object, but is a string"},
		"AWS without tokens": {
			configChanges{"credentials": configChanges{"auth_type": "AWSIAM", "aws_region": "r", "aws_role_arn": "a"}},
			"2 faults\ncredentials.aws_access_key_id is missing: the Flow runtime puts it there for each session, where credentials name aws_region and aws_role_arn; without the runtime, set it yourself\n" +
				"credentials.aws_secret_access_key is missing: the Flow runtime puts it there for each session, where credentials name aws_region and aws_role_arn; without the runtime, set it yourself",
		},
		"AWS without region": {
			configChanges{"credentials": configChanges{"auth_type": "AWSIAM", "aws_access_key_id": "i", "aws_secret_access_key": "s3cr3t"}},
			"credentials.aws_region is missing: set it to the region of the database instance, such as eu-central-1",
		},
		"GCP without token": {
			configChanges{"credentials.auth_type": "GCPIAM"},
			"credentials.gcp_access_token is missing: the Flow runtime puts it there for each session, where credentials name gcp_service_account_to_impersonate and gcp_workload_identity_pool_audience; without the runtime, set it yourself (gcloud sql generate-login-token)",
		},
		"Azure without token": {
			configChanges{"credentials.auth_type": "AzureIAM"},
			"credentials.azure_access_token is missing: the Flow runtime puts it there for each session, where credentials name azure_client_id and azure_tenant_id; without the runtime, set it yourself (az account get-access-token --resource-type oss-rdbms)",
		},
		"a token in the clear": {
			configChanges{"credentials": configChanges{"auth_type": "GCPIAM", "gcp_access_token": "s3cr3t"}, "advanced.sslmode": "disable"},
			"advanced.sslmode disable is not possible with credentials.auth_type GCPIAM, which needs TLS: set it to require or verify-full",
		},
		"a token that is bound": {
			configChanges{"credentials": configChanges{"auth_type": "GCPIAM", "gcp_access_token": "s3cr3t"}, "advanced.channel_binding": "require"},
			"advanced.channel_binding require is not possible with credentials.auth_type GCPIAM, whose token the server wants as it is: set it to prefer",
		},
		"other credentials": {
			configChanges{"credentials.auth_type": "s3cr3t"}, "credentials.auth_type is none of UserPassword, AWSIAM, GCPIAM, AzureIAM: set it to UserPassword",
		},
		"unknown credential": {configChanges{"credentials.pass_word": "s3cr3t"}, "credentials.pass_word is not a known property: did you mean credentials.password?"},
		"unknown at root":    {configChanges{"Address": "x"}, "Address is not a known property: did you mean address?"},
		"unknown, advanced":  {configChanges{"advanced.slot_name": "x"}, "advanced.slot_name is not a known property: did you mean advanced.slotName?"},
		"unknown, filters":   {configChanges{"discoveryFilters.x": 1}, "discoveryFilters.x is not a known property: remove it"},
		"unknown, tunnel":    {configChanges{"networkTunnel.x": 1}, "networkTunnel.x is not a known property: remove it"},
		"unknown, SSH":       {configChanges{"networkTunnel.sshForwarding.x": 1}, "networkTunnel.sshForwarding.x is not a known property: remove it"},
		"tunnel": {
			configChanges{"networkTunnel.sshForwarding": configChanges{"sshEndpoint": "ssh://a@b", "privateKey": "s3cr3t", "hostKey": ""}},
			"networkTunnel.sshForwarding.privateKey is no private key: paste the whole text of the private key's file, from its BEGIN line to its END line",
		},
		"tunnel without a key": {
			configChanges{"networkTunnel.sshForwarding": configChanges{"sshEndpoint": "ssh://a@b"}},
			"networkTunnel.sshForwarding.privateKey is missing: paste the whole text of the private key's file, from its BEGIN line to its END line",
		},
		"failover slot": {configChanges{"advanced.failover_slot": "on"}, "advanced.failover_slot must be true or false, but is a string"},
		"history":       {configChanges{"historyMode": "yes"}, "historyMode must be true or false, but is a string"},
		"slot": {
			configChanges{"advanced.slotName": "Slot-1"},
			`advanced.slotName "slot-1" is no name for a slot: use 1 to 63 characters, each a lower-case letter a to z, a digit or an underscore`,
		},
		"slot length": {
			configChanges{"advanced.slotName": strings.Repeat("x", 64)},
			`advanced.slotName "` + strings.Repeat("x", 64) + `" is no name for a slot: use 1 to 63 characters, each a lower-case letter a to z, a digit or an underscore`,
		},
		"publication":        {configChanges{"advanced.publicationName": strings.Repeat("ü", 32)}, "advanced.publicationName has 64 bytes: the server's names have at most 63"},
		"watermarks":         {configChanges{"advanced.watermarksTable": "marks"}, `advanced.watermarksTable "marks" is not of the form schema.table, such as public.flow_watermarks`},
		"watermarks, empty":  {configChanges{"advanced.watermarksTable": "a."}, `advanced.watermarksTable "a." is not of the form schema.table, such as public.flow_watermarks`},
		"watermarks, quoted": {configChanges{"advanced.watermarksTable": `"a".b"`}, `advanced.watermarksTable "\"a\".b\"" is not of the form schema.table, such as public.flow_watermarks`},
		"watermarks, open":   {configChanges{"advanced.watermarksTable": `"a.b`}, `advanced.watermarksTable "\"a.b" is not of the form schema.table, such as public.flow_watermarks`},
		"watermarks, tail":   {configChanges{"advanced.watermarksTable": `a."b"c`}, `advanced.watermarksTable "a.\"b\"c" is not of the form schema.table, such as public.flow_watermarks`},
		"watermarks, middle": {configChanges{"advanced.watermarksTable": `"a"b.c`}, `advanced.watermarksTable "\"a\"b.c" is not of the form schema.table, such as public.flow_watermarks`},
		"skip": {
			configChanges{"advanced.skip_backfills": "a.b, orders"},
			`advanced.skip_backfills has the entry "orders", which is not of the form schema.table: write tables as public.orders, with commas between them, or *.* for all`,
		},
		"chunk size":        {configChanges{"advanced.backfill_chunk_size": 1.5}, "advanced.backfill_chunk_size must be a whole number, but is a number"},
		"chunk size text":   {configChanges{"advanced.backfill_chunk_size": "5"}, "advanced.backfill_chunk_size must be a whole number, but is a string"},
		"XID":               {configChanges{"advanced.min_backfill_xid": "4294967296"}, `advanced.min_backfill_xid "4294967296" is no transaction ID: it must be digits only and at most 4294967295`},
		"XID sign":          {configChanges{"advanced.min_backfill_xid": "+1"}, `advanced.min_backfill_xid "+1" is no transaction ID: it must be digits only and at most 4294967295`},
		"sslmode":           {configChanges{"advanced.sslmode": "on"}, `advanced.sslmode is "on", but must be one of "prefer", "disable", "allow", "require", "verify-ca", "verify-full"`},
		"root, no PEM":      {configChanges{"advanced.sslmode": "verify-ca", "advanced.ssl_root_cert": "x"}, "advanced.ssl_root_cert holds no certificate: paste the PEM text, from BEGIN CERTIFICATE to END CERTIFICATE"},
		"root without use":  {configChanges{"advanced.ssl_root_cert": certificate}, "advanced.ssl_root_cert is of no effect with advanced.sslmode prefer: set that to verify-full or verify-ca, or remove the certificate"},
		"key alone":         {configChanges{"advanced.ssl_client_key": key}, "advanced.ssl_client_cert and advanced.ssl_client_key go together: set both or neither"},
		"client, disabled":  {configChanges{"advanced.sslmode": "disable", "advanced.ssl_client_cert": certificate, "advanced.ssl_client_key": key}, "advanced.ssl_client_cert is of no effect with advanced.sslmode disable: choose another mode or remove the certificate"},
		"client, no pair":   {configChanges{"advanced.ssl_client_cert": otherCertificate, "advanced.ssl_client_key": key}, "advanced.ssl_client_cert and advanced.ssl_client_key are no pair of certificate and key in PEM form (tls: private key does not match public key): paste both whole, the key without a passphrase"},
		"client, no key":    {configChanges{"advanced.ssl_client_cert": certificate, "advanced.ssl_client_key": "s3cr3t"}, "advanced.ssl_client_cert and advanced.ssl_client_key are no pair of certificate and key in PEM form (tls: failed to find any PEM data in key input): paste both whole, the key without a passphrase"},
		"rediscovery short": {configChanges{"advanced.rediscovery_interval": "59s"}, `advanced.rediscovery_interval "59s" is no time between 1m and 8760h (365 days): write it as 15m or 2h`},
		"rediscovery long":  {configChanges{"advanced.rediscovery_interval": "8761h"}, `advanced.rediscovery_interval "8761h" is no time between 1m and 8760h (365 days): write it as 15m or 2h`},
		"rediscovery text":  {configChanges{"advanced.rediscovery_interval": "daily"}, `advanced.rediscovery_interval "daily" is no time between 1m and 8760h (365 days): write it as 15m or 2h`},
		"timeout text":      {configChanges{"advanced.statement_timeout": "5"}, `advanced.statement_timeout "5" is no time between 1ms and 596h: write it as 30s or 5m, or 0 for none`},
		"timeout short":     {configChanges{"advanced.statement_timeout": "999us"}, `advanced.statement_timeout "999us" is no time between 1ms and 596h: write it as 30s or 5m, or 0 for none`},
		"timeout below 0":   {configChanges{"advanced.statement_timeout": "-5s"}, `advanced.statement_timeout "-5s" is no time between 1ms and 596h: write it as 30s or 5m, or 0 for none`},
		"timeout long":      {configChanges{"advanced.statement_timeout": "600h"}, `advanced.statement_timeout "600h" is no time between 1ms and 596h: write it as 30s or 5m, or 0 for none`},
		"slot loss":         {configChanges{"advanced.on_slot_loss": "ignore"}, `advanced.on_slot_loss is "ignore", but must be one of "fail", "backfill"`},
		"truncate":          {configChanges{"advanced.on_truncate": "fail"}, `advanced.on_truncate is "fail", but must be one of "ignore", "backfill", "mark"`},
		"truncate, no flag": {configChanges{"advanced.on_truncate": "mark"}, "advanced.on_truncate mark needs backfill markers: add emit_backfill_markers to advanced.feature_flags, or set advanced.on_truncate to ignore or backfill"},
		"flags, no LSN":     {configChanges{"advanced.feature_flags": "force_reset_cursor=16-4"}, `advanced.feature_flags sets force_reset_cursor to "16-4", which is no log position: write it as force_reset_cursor=16/B374D848`},
		"flags, zero":       {configChanges{"advanced.feature_flags": "initial_backfill_cursor=0/0"}, `advanced.feature_flags sets initial_backfill_cursor to "0/0", which is no log position: write it as initial_backfill_cursor=16/B374D848`},
		"include, blank":    {configChanges{"discoveryFilters.include_schemas": []string{"a", " "}}, "discoveryFilters.include_schemas[1] is blank: remove it, or name a schema"},
		"schemas, blank":    {configChanges{"advanced.discover_schemas": []string{""}}, "advanced.discover_schemas[0] is blank: remove it, or name a schema"},
		"list of numbers":   {configChanges{"discoveryFilters.exclude_schemas": []any{"a", 1}}, "discoveryFilters.exclude_schemas must be a list of strings, but is a list"},
		"list of nulls":     {configChanges{"discoveryFilters.exclude_schemas": []any{nil}}, "discoveryFilters.exclude_schemas must be a list of strings, but is a list"},
		"pattern":           {configChanges{"discoveryFilters.table_patterns": []string{"a", "a.b.c"}}, `discoveryFilters.table_patterns[1] "a.b.c" has more than one dot: write schema.table, and \. for a dot inside a name`},
		"filters list":      {configChanges{"discoveryFilters": []any{}}, "discoveryFilters must be an object, but is a list"},
		"several": {
			configChanges{"address": nil, "credentials.password": nil, "advanced.slotName": "X!", "advanced.zzz": 1, "advanced.failover_slot": 1, "extra": "s3cr3t"},
			"6 faults\n" +
				"address is missing" + addressRemedy + "\n" +
				"credentials.password is missing: set it to the role's password\n" +
				`advanced.slotName "x!" is no name for a slot: use 1 to 63 characters, each a lower-case letter a to z, a digit or an underscore` + "\n" +
				"advanced.failover_slot must be true or false, but is a number\n" +
				"extra is not a known property: remove it\n" +
				"advanced.zzz is not a known property: remove it",
		},
	} {
		_, err := parseConfig(configWith(t, test.config))
		want := "endpoint config: " + test.want
		if errorText(err) != want {
			t.Errorf("%s:\n got %v\nwant %s", name, err, want)
		}
		if strings.Contains(errorText(err), "s3cr3t") {
			t.Errorf("%s: the error shows a secret: %v", name, err)
		}
		var forUser *userError
		if !errors.As(err, &forUser) {
			t.Errorf("%s: %T is no userError", name, err)
		}
	}
}

func TestParseConfigNoObject(t *testing.T) {
	for in, want := range map[string]string{
		"":                     "endpoint config: the text is not valid JSON at byte 0 of 0",
		`{"password":"s3cr3t`:  "endpoint config: the text is not valid JSON at byte 19 of 19",
		`{"password":s3cr3t}`:  "endpoint config: the text is not valid JSON at byte 13 of 19",
		"null":                 "endpoint config: it must be an object, but is null",
		`"config.yaml"`:        "endpoint config: it must be an object, but is a string",
		`[{"password":"x"}]`:   "endpoint config: it must be an object, but is a list",
		`{"user":"a"} {"b":1}`: "endpoint config: the text is not valid JSON at byte 14 of 20",
	} {
		if _, err := parseConfig(json.RawMessage(in)); errorText(err) != want {
			t.Errorf("%s:\n got %v\nwant %s", in, err, want)
		}
	}
}

func TestSettingsHideSecrets(t *testing.T) {
	certificate, key := testCertificate(t)
	s, err := parseConfig(configWith(t, configChanges{
		"advanced.ssl_client_cert": certificate, "advanced.ssl_client_key": key, "address": "[::1]:5433",
	}))
	if err != nil {
		t.Fatal(err)
	}
	const want = "user capture at [::1]:5433, database shop, slot flow_slot, publication flow_publication"
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, s); got != want {
			t.Errorf("%s of a pointer: %s", format, got)
		}
		if got := fmt.Sprintf(format, *s); got != want {
			t.Errorf("%s of a value: %s", format, got)
		}
	}
}

func TestSkipsBackfill(t *testing.T) {
	parse := func(list string) *settings {
		s, err := parseConfig(configWith(t, configChanges{"advanced.skip_backfills": list}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, test := range []struct {
		list  string
		table tableName
		want  bool
	}{
		{"", tableName{"public", "a"}, false},
		{"public.A,x.y", tableName{"Public", "a"}, true},
		{"public.A, x.y", tableName{"x", "Y"}, true},
		{"public.A", tableName{"public", "ab"}, false},
		{"*.*", tableName{"any", "thing"}, true},
	} {
		if got := parse(test.list).skipsBackfill(test.table); got != test.want {
			t.Errorf("%q skips %v: got %v", test.list, test.table, got)
		}
	}
}

func TestEncodeOptions(t *testing.T) {
	s, err := parseConfig(configWith(t, configChanges{"advanced.feature_flags": "no_time_as_time,multidimensional_arrays"}))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.encodeOptions(), (encodeOptions{dateAsDate: true, flattenArrays: true, multidimensional: true}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTablePattern(t *testing.T) {
	for _, test := range []struct {
		glob    string
		yes, no []tableName
		wantErr string
	}{
		{"orders", []tableName{{"a", "orders"}, {"b.c", "orders"}}, []tableName{{"a", "Orders"}, {"a", "orders2"}, {"a", "xorders"}}, ""},
		{"pub*.o?ders", []tableName{{"public", "orders"}, {"pub", "oßders"}}, []tableName{{"apub", "orders"}, {"public", "oders"}}, ""},
		{"*.*", []tableName{{"a", "b"}, {"a\nb", "c\nd"}}, nil, ""},
		{`s\.t`, []tableName{{"x", "s.t"}}, []tableName{{"s", "t"}, {"x", "sxt"}}, ""},
		{`a\.b.c\*`, []tableName{{"a.b", "c*"}}, []tableName{{"a.b", "cd"}}, ""},
		{`\\a[b]+`, []tableName{{"x", `\a[b]+`}}, []tableName{{"x", `\ab`}}, ""},
		{"a.b.c", nil, nil, `has more than one dot: write schema.table, and \. for a dot inside a name`},
		{`a\`, nil, nil, "ends in a backslash that escapes nothing: double it, or remove it"},
		{"", nil, nil, "has an empty part, which no name matches: write table or schema.table, and * for any name"},
		{"a.", nil, nil, "has an empty part, which no name matches: write table or schema.table, and * for any name"},
	} {
		p, err := compileTablePattern(test.glob)
		if errorText(err) != test.wantErr {
			t.Errorf("%q: %v", test.glob, err)
		}
		for _, name := range test.yes {
			if !p.matches(name) {
				t.Errorf("%q does not match %q", test.glob, name)
			}
		}
		for _, name := range test.no {
			if p.matches(name) {
				t.Errorf("%q matches %q", test.glob, name)
			}
		}
	}
}

func TestParseResource(t *testing.T) {
	orders := tableName{"public", "Orders"}
	for _, test := range []struct {
		in      string
		want    resource
		wantErr string
	}{
		{`{"namespace":"public","stream":"Orders"}`, resource{table: orders}, ""},
		{`{"namespace":"public","stream":"Orders","mode":"","syncMode":"x","advanced":null}`, resource{table: orders}, ""},
		{
			`{"namespace":"public","stream":"Orders","mode":"Only Changes","priority":-3,"primary_key":["a","B"],"advanced":{"additional_backfill_filter":"a > 1 -- x"}}`,
			resource{table: orders, mode: modeOnlyChanges, priority: -3, primaryKey: []string{"a", "B"}, filter: "a > 1 -- x"},
			"",
		},
		{`{"namespace":"public","stream":"Orders","mode":"Precise","primary_key":[]}`, resource{table: orders, mode: modePrecise}, ""},
		{`{"namespace":"public","stream":"Orders","mode":"Normal"}`, resource{table: orders, mode: modeNormal}, ""},
		{`{"namespace":"public","stream":"Orders","mode":"Without Primary Key","priority":1e1}`, resource{table: orders, mode: modeKeyless, priority: 10}, ""},
		{`{`, resource{}, "resource config: the text is not valid JSON at byte 1 of 1"},
		{`{}`, resource{}, "resource config: 2 faults\nnamespace is missing: set it to the table's schema\nstream is missing: set it to the table's name"},
		{`{"namespace":1,"stream":"t"}`, resource{}, "resource config: namespace must be a string, but is a number: put it in quotes"},
		{
			`{"namespace":"public","stream":"Orders","mode":"precise"}`,
			resource{},
			`resource config of public.Orders: mode is "precise", but must be one of "", "Normal", "Precise", "Only Changes", "Without Primary Key"`,
		},
		{
			`{"namespace":"public","stream":"Orders","mode":"Precise","advanced":{"additional_backfill_filter":"a > 1"}}`,
			resource{},
			"resource config of public.Orders: advanced.additional_backfill_filter cannot be used in mode Precise, which needs every row of a chunk: choose another mode, such as Normal, or remove the filter",
		},
		{
			`{"namespace":"public","stream":"Orders","advanced":{"additional_backfill_filter":" \n"}}`,
			resource{},
			"resource config of public.Orders: advanced.additional_backfill_filter is blank: remove it, or write an SQL condition",
		},
		{
			`{"namespace":"public","stream":"Orders","_meta":{"path":[]},"primary_key":["a","","a"],"advanced":{"filter":1}}`,
			resource{},
			"resource config of public.Orders: 4 faults\nprimary_key[1] is empty: name a column of the table, or remove it\nprimary_key[2] repeats the column \"a\": remove it\n" +
				"_meta is not a known property: remove it\nadvanced.filter is not a known property: remove it",
		},
		{`{"namespace":"public","stream":"Orders","priority":"high"}`, resource{}, "resource config of public.Orders: priority must be a whole number, but is a string"},
	} {
		got, err := parseResource(json.RawMessage(test.in))
		if !reflect.DeepEqual(got, test.want) || errorText(err) != test.wantErr {
			t.Errorf("%s:\n got %+v, %v\nwant %+v, %s", test.in, got, err, test.want, test.wantErr)
		}
	}
}

// Every property of the schemas is known to the parsers with the schema's type, and the parsers know no other, apart
// from those that are hidden from forms.
func TestSchemasAgreeWithParsers(t *testing.T) {
	samples := map[string]string{"string": `"1"`, "boolean": "true", "integer": "1", "array": "[]", "object": "{}"}
	var check func(path string, schema map[string]any, parse func(json.RawMessage) error)
	check = func(path string, schema map[string]any, parse func(json.RawMessage) error) {
		for name, property := range schema["properties"].(map[string]any) {
			property := property.(map[string]any)
			at := path + name
			kind := property["type"].(string)
			wrap := func(value string) json.RawMessage {
				parts := strings.Split(at, ".")
				text := value
				for i := len(parts) - 1; i >= 0; i-- {
					text = fmt.Sprintf("{%q:%s}", parts[i], text)
				}
				return json.RawMessage(text)
			}
			if err := parse(wrap(samples[kind])); strings.Contains(errorText(err), at+" is not a known") || strings.Contains(errorText(err), at+" must be") {
				t.Errorf("%s: the parser disagrees: %v", at, err)
			}
			if err := parse(wrap(`{"a":[]}`)); kind != "object" && !strings.Contains(errorText(err), at+" must be") {
				t.Errorf("%s: the parser takes any type: %v", at, err)
			}
			if _, ok := property["properties"]; ok {
				check(at+".", property, parse)
			}
			for _, one := range anyList(property["oneOf"]) {
				names := slices.Collect(maps.Keys(one.(map[string]any)["properties"].(map[string]any)))
				for _, name := range names {
					if err := parse(wrap(fmt.Sprintf("{%q:%s}", name, `"1"`))); strings.Contains(errorText(err), name+" is not a known") {
						t.Errorf("%s.%s: %v", at, name, err)
					}
				}
			}
		}
	}
	check("", schemaObject(t, configSchema()), func(raw json.RawMessage) error { _, err := parseConfig(raw); return err })
	check("", schemaObject(t, resourceSchema()), func(raw json.RawMessage) error { _, err := parseResource(raw); return err })
}

func anyList(v any) []any {
	list, _ := v.([]any)
	return list
}

func schemaObject(t *testing.T, raw json.RawMessage) (schema map[string]any) {
	t.Helper()
	if bytes.ContainsAny(raw, "\n\r\t") {
		t.Error("a schema has more than one line")
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// The runtime builds no schema with a keyword that it does not know (spec/flow-protocol.md §3.9), and forms show
// titles and descriptions.
func TestSchemaKeywords(t *testing.T) {
	known := map[string]bool{}
	for _, k := range strings.Fields(`$schema $id type title description default enum const pattern properties required items
		additionalProperties oneOf readOnly discriminator order secret multiline advanced`) {
		known[k] = true
	}
	ours := map[string]bool{"x-iam-auth": true, "x-iam-azure-scope": true, "x-hidden-field": true, "nonsensitive": true}
	var walk func(at string, schema map[string]any)
	walk = func(at string, schema map[string]any) {
		for keyword := range schema {
			if !known[keyword] && !ours[keyword] {
				t.Errorf("%s: keyword %s", at, keyword)
			}
		}
		for name, property := range objectOf(schema["properties"]) {
			property := objectOf(property)
			if property["const"] == nil && (property["title"] == nil || property["description"] == nil && property["properties"] == nil) {
				t.Errorf("%s.%s has no title or no description", at, name)
			}
			walk(at+"."+name, property)
		}
		for _, one := range anyList(schema["oneOf"]) {
			walk(at+"|", objectOf(one))
		}
		for _, name := range anyList(schema["required"]) {
			if objectOf(schema["properties"])[name.(string)] == nil {
				t.Errorf("%s requires %s, which it does not describe", at, name)
			}
		}
	}
	walk("endpoint", schemaObject(t, configSchema()))
	walk("resource", schemaObject(t, resourceSchema()))
}

func objectOf(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}

// The annotations of the contract (spec/incumbent.md §2, decisions #36), one line a property.
func TestSchemaAnnotations(t *testing.T) {
	var lines []string
	var walk func(at string, schema map[string]any)
	walk = func(at string, schema map[string]any) {
		for name, property := range objectOf(schema["properties"]) {
			property := objectOf(property)
			kept := map[string]any{}
			for k, v := range property {
				if !slices.Contains([]string{"title", "description", "properties", "oneOf", "items"}, k) {
					kept[k] = v
				}
			}
			text, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, at+name+" "+string(text))
			walk(at+name+".", property)
			for _, one := range anyList(property["oneOf"]) {
				walk(at+name+"|", objectOf(one))
			}
		}
	}
	walk("", schemaObject(t, configSchema()))
	walk("resource:", schemaObject(t, resourceSchema()))
	slices.Sort(lines)
	const want = `address {"order":0,"type":"string"}
advanced {"additionalProperties":false,"advanced":true,"type":"object"}
advanced.backfill_chunk_size {"default":50000,"nonsensitive":true,"type":"integer"}
advanced.capture_as_partitions {"nonsensitive":true,"type":"boolean"}
advanced.channel_binding {"enum":["prefer","disable","require"],"type":"string"}
advanced.discover_only_published {"nonsensitive":true,"type":"boolean","x-hidden-field":true}
advanced.discover_schemas {"nonsensitive":true,"type":"array"}
advanced.discover_unpublished_tables {"nonsensitive":true,"type":"boolean"}
advanced.failover_slot {"default":false,"nonsensitive":true,"type":"boolean"}
advanced.feature_flags {"nonsensitive":true,"type":"string"}
advanced.min_backfill_xid {"pattern":"^[0-9]+$","type":"string"}
advanced.on_slot_loss {"default":"fail","enum":["fail","backfill"],"nonsensitive":true,"type":"string"}
advanced.on_truncate {"default":"","enum":["","ignore","backfill","mark"],"nonsensitive":true,"type":"string"}
advanced.publicationName {"default":"flow_publication","type":"string"}
advanced.read_only_capture {"nonsensitive":true,"type":"boolean"}
advanced.rediscovery_interval {"default":"15m","nonsensitive":true,"pattern":"^[0-9]+(ms|s|m|h)$","type":"string"}
advanced.skip_backfills {"type":"string"}
advanced.slotName {"default":"flow_slot","type":"string"}
advanced.source_tag {"nonsensitive":true,"type":"string"}
advanced.ssl_client_cert {"multiline":true,"type":"string"}
advanced.ssl_client_key {"multiline":true,"secret":true,"type":"string"}
advanced.ssl_root_cert {"multiline":true,"type":"string"}
advanced.sslmode {"enum":["disable","allow","prefer","require","verify-ca","verify-full"],"type":"string"}
advanced.statement_timeout {"default":"","enum":["","0","30s","1m","2m","5m","30m"],"nonsensitive":true,"type":"string"}
advanced.watermarksTable {"default":"public.flow_watermarks","type":"string"}
credentials {"default":{"auth_type":"UserPassword"},"discriminator":{"propertyName":"auth_type"},"order":4,"type":"object","x-iam-auth":true,"x-iam-azure-scope":"https://ossrdbms-aad.database.windows.net/.default"}
credentials|auth_type {"const":"AWSIAM","default":"AWSIAM","order":0,"type":"string"}
credentials|auth_type {"const":"AzureIAM","default":"AzureIAM","order":0,"type":"string"}
credentials|auth_type {"const":"GCPIAM","default":"GCPIAM","order":0,"type":"string"}
credentials|auth_type {"const":"UserPassword","default":"UserPassword","order":0,"type":"string"}
credentials|aws_region {"order":1,"type":"string"}
credentials|aws_role_arn {"order":2,"type":"string"}
credentials|azure_client_id {"order":1,"type":"string"}
credentials|azure_tenant_id {"order":2,"type":"string"}
credentials|gcp_service_account_to_impersonate {"order":1,"type":"string"}
credentials|gcp_workload_identity_pool_audience {"order":2,"type":"string"}
credentials|password {"order":1,"secret":true,"type":"string"}
database {"default":"postgres","order":2,"type":"string"}
discoveryFilters {"additionalProperties":false,"type":"object"}
discoveryFilters.discover_unpublished_tables {"nonsensitive":true,"type":"boolean"}
discoveryFilters.exclude_schemas {"nonsensitive":true,"type":"array"}
discoveryFilters.include_schemas {"nonsensitive":true,"type":"array"}
discoveryFilters.table_patterns {"nonsensitive":true,"type":"array"}
historyMode {"default":false,"nonsensitive":true,"order":3,"type":"boolean"}
networkTunnel {"additionalProperties":false,"type":"object"}
networkTunnel.sshForwarding {"additionalProperties":false,"type":"object"}
networkTunnel.sshForwarding.hostKey {"type":"string"}
networkTunnel.sshForwarding.privateKey {"multiline":true,"secret":true,"type":"string"}
networkTunnel.sshForwarding.sshEndpoint {"pattern":"^ssh://.+@.+$","type":"string"}
resource:advanced {"additionalProperties":false,"advanced":true,"type":"object"}
resource:advanced.additional_backfill_filter {"type":"string"}
resource:mode {"default":"","enum":["","Normal","Precise","Only Changes","Without Primary Key"],"type":"string"}
resource:namespace {"readOnly":true,"type":"string"}
resource:primary_key {"type":"array","x-hidden-field":true}
resource:priority {"type":"integer"}
resource:stream {"readOnly":true,"type":"string"}
resource:syncMode {"type":"string","x-hidden-field":true}
user {"default":"flow_capture","order":1,"type":"string"}`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s", got)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(`{"address":"[::1]:5432","user":"u","credentials":{"password":"p"}}`)
	f.Add(string(configWith(f, configChanges{
		"advanced.watermarksTable": `"a"."b"`, "advanced.feature_flags": "no_x,force_reset_cursor=1/2", "advanced.statement_timeout": "1m",
		"discoveryFilters.table_patterns": []string{`a\.*.?`}, "advanced.skip_backfills": "a.b",
	})))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseConfig(json.RawMessage(text))
		if (s == nil) == (err == nil) {
			t.Fatalf("got %v and %v", s, err)
		}
		if s != nil {
			if s.host == "" || s.port == 0 || s.user == "" || s.password == "" || s.database == "" || s.slot == "" ||
				s.watermarks.schema == "" || s.watermarks.name == "" || s.chunkRows <= 0 || s.rediscoveryInterval < time.Minute ||
				s.statementTimeout < 0 {
				t.Errorf("incomplete: %#v", plainSettings(*s))
			}
			for _, p := range s.tablePatterns {
				p.matches(tableName{"a", "b"})
			}
		}
		_, _ = parseResource(json.RawMessage(text))
	})
}

// testCertificate returns a self-signed certificate and its key in PEM form.
func testCertificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}
