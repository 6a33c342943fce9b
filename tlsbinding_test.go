package main

// Goal: a server whose certificate cannot be bound to is told as that, and advanced.channel_binding is the way out. Method: a
// real server with an Ed25519 certificate.

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
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
	data := db.queryValue("SHOW data_directory")
	info, err := os.Stat(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		db.Skipf("the server's files cannot be written (it runs in a container?): %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		db.Fatal(err)
	}
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		db.Fatal(err)
	}
	for name, text := range map[string]string{
		"server.crt": certificate, "server.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
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
