package main

// Goal: TLS is what it is with libpq: a server whose certificate cannot be bound to is told as that, and advanced.channel_binding is
// the way out; unusual certificates are taken; a client certificate does for a password; and a connection in the clear is said.
// Method: a real server with such certificates.

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveTLS has the test's own server show a certificate for the name, which it returns. Where the server's files are out of
// reach the test is skipped.
func (db *testDB) serveTLS(key crypto.Signer, name string) (certificate string) {
	db.Helper()
	return db.serveCertificate(key, selfSigned(db, key, name, 0))
}

// selfSigned makes a certificate for the name, signed with the algorithm or, for 0, the key's usual one.
func selfSigned(t testing.TB, key crypto.Signer, name string, algorithm x509.SignatureAlgorithm) (der []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), BasicConstraintsValid: true,
		SignatureAlgorithm: algorithm,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// serveCertificate is serveTLS with a certificate that is there.
func (db *testDB) serveCertificate(key crypto.Signer, der []byte) (certificate string) {
	db.Helper()
	data := db.queryValue("SHOW data_directory")
	info, err := os.Stat(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		db.Skipf("the server's files cannot be written (it runs in a container?): %v", err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		db.Fatal(err)
	}
	for name, text := range map[string]string{
		"server.crt": certificate, "server.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	} {
		file := filepath.Join(data, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			db.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 { // the server is another user's
			if err := os.Chown(file, int(owner.Uid), int(owner.Gid)); err != nil {
				db.Fatal(err)
			}
		}
	}
	db.exec("ALTER SYSTEM SET ssl = on")
	db.exec("SELECT pg_reload_conf()")
	db.eventually("the server to speak TLS", func() bool { return db.queryValue("SHOW ssl") == "on" })
	return certificate
}

func TestChannelBinding(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	if db.version() < 140000 {
		t.Skip("OpenSSL of older servers may know no Ed25519")
	}
	db.serveTLS(newEd25519(t), "localhost")
	for _, test := range []struct{ mode, binding, want string }{
		{"require", "prefer", adviceBinding},
		{"require", "disable", ""},
		{"require", "require", "set `advanced.channel_binding` to prefer"},
		{"disable", "prefer", ""},
	} {
		s := db.settings()
		s.sslmode, s.channelBinding = test.mode, test.binding
		conn, err := connectDatabase(context.Background(), s)
		if err == nil {
			conn.close()
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, channel binding %s: %v, want %q", test.mode, test.binding, err, test.want)
		}
	}
}

// TestUnusualCertificates: an RSA-PSS signature, and a negative serial number, as libpq takes them.
func TestUnusualCertificates(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		key      crypto.Signer
		der      []byte
		bindings []string
	}{
		{"RSA-PSS", rsaKey, selfSigned(t, rsaKey, "localhost", x509.SHA256WithRSAPSS), []string{"prefer", "require", "disable"}},
		{"negative serial number", ecKey, negativeSerial(t, ecKey, selfSigned(t, ecKey, "localhost", 0)), []string{"prefer", "require"}},
	} {
		root := db.serveCertificate(test.key, test.der)
		for _, binding := range test.bindings {
			s := db.settings()
			s.host, s.sslmode, s.sslRootCert, s.channelBinding = "localhost", "verify-full", root, binding
			db.eventually(test.name+" with channel_binding "+binding, func() bool { // the server takes a moment to have it
				conn, err := connectDatabase(t.Context(), s)
				if err != nil {
					t.Log(err)
					return false
				}
				conn.close()
				return true
			})
		}
	}
}

// negativeSerial makes the serial number of a certificate, which is 1, -1, and signs it anew.
func negativeSerial(t *testing.T, key *ecdsa.PrivateKey, der []byte) []byte {
	t.Helper()
	var certificate struct {
		Body      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &certificate); err != nil {
		t.Fatal(err)
	}
	body := bytes.Replace(certificate.Body.FullBytes, []byte{2, 1, 1, 0x30}, []byte{2, 1, 0xff, 0x30}, 1)
	digest := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	certificate.Body = asn1.RawValue{FullBytes: body}
	certificate.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	if der, err = asn1.Marshal(certificate); err != nil {
		t.Fatal(err)
	}
	if parsed, err := x509.ParseCertificate(der); err != nil || parsed.SerialNumber.Sign() >= 0 {
		t.Fatalf("made a certificate with the serial number %v: %v", parsed, err)
	}
	return der
}

// TestClientCertificate: a role that logs in by its certificate needs no password, and PEM is taken however it was pasted.
func TestClientCertificate(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := db.serveTLS(key, "localhost")
	client := newEd25519(t)
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t, client, *testCaptureUser, 0)}))
	der, err := x509.MarshalPKCS8PrivateKey(client)
	if err != nil {
		t.Fatal(err)
	}
	clientKey := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	data := db.queryValue("SHOW data_directory")
	if err := os.WriteFile(filepath.Join(data, "clients.crt"), []byte(certificate), 0o644); err != nil {
		t.Fatal(err)
	}
	hba := db.queryValue("SHOW hba_file")
	rules, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	for _, database := range []string{"all", "replication"} {
		rules = append([]byte("hostssl "+database+" "+*testCaptureUser+" all cert\n"), rules...)
	}
	if err := os.WriteFile(hba, rules, 0o600); err != nil {
		t.Fatal(err)
	}
	db.exec("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'")
	db.exec("SELECT pg_reload_conf()")
	db.eventually("the server to want certificates", func() bool { return db.queryValue("SHOW ssl_ca_file") == "clients.crt" })
	roots, certificates, keys := pastes(root), pastes(certificate), pastes(clientKey)
	for how := range roots {
		for _, credentials := range []any{nil, configChanges{"auth_type": "UserPassword", "password": ""}} {
			var config map[string]any
			if err := json.Unmarshal(db.edgeConfig(map[string]any{
				"sslmode": "verify-full", "ssl_root_cert": roots[how], "ssl_client_cert": certificates[how], "ssl_client_key": keys[how],
			}), &config); err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(*testAddress)
			config["address"], config["credentials"] = "localhost:"+port, credentials
			text, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseConfig(text)
			if err != nil {
				t.Errorf("%s: %v", how, err)
				continue
			}
			db.eventually(how, func() bool {
				conn, err := connectDatabase(t.Context(), s)
				if err != nil {
					t.Logf("%s: %v", how, err)
					return false
				}
				conn.close()
				return true
			})
		}
	}
}

// TestClearText: that prefer has come down to a connection without TLS is said once at validation and once by the capture.
func TestClearText(t *testing.T) {
	db := newTestDB(t)
	if db.queryValue("SHOW ssl") == "on" {
		t.Skip("the server speaks TLS")
	}
	table := db.edgeTable("t", "int PRIMARY KEY", 3)
	for mode, want := range map[string]int{"": 2, "prefer": 2, "disable": 0, "allow": 0} {
		r := edgeStart(db, runtimeOptions{config: db.edgeConfig(map[string]any{"sslmode": mode})}, map[tableName]backfillMode{table: modeAutomatic})
		r.waitEnd(db, table)
		r.stop()
		if err := r.wait(); err != nil {
			t.Error(err)
		}
		if n := r.countLogs("the connection to the server is not encrypted"); n != want {
			t.Errorf("sslmode %q: said %d times, want %d", mode, n, want)
		}
	}
}
