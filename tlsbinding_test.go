package main

// Goal: a server whose certificate cannot be bound to is told as that, and advanced.channel_binding is the way out. Method: a
// real server with an Ed25519 certificate, made by openssl.

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestChannelBinding(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	if db.version() < 140000 {
		t.Skip("OpenSSL of older servers may know no Ed25519")
	}
	data := db.queryValue("SHOW data_directory")
	info, err := os.Stat(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		t.Skipf("the server's files cannot be written (it runs in a container?): %v", err)
	}
	key, certificate := filepath.Join(data, "server.key"), filepath.Join(data, "server.crt")
	out, err := exec.Command("openssl", "req", "-new", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-subj", "/CN=localhost",
		"-keyout", key, "-out", certificate).CombinedOutput()
	if err != nil {
		t.Skipf("needs openssl: %v: %s", err, out)
	}
	for _, file := range []string{key, certificate} {
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 { // the server is another user's
			if out, err := exec.Command("chown", "--reference", filepath.Join(data, info.Name()), file).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	db.exec("ALTER SYSTEM SET ssl = on")
	db.exec("SELECT pg_reload_conf()")
	db.eventually("the server to speak TLS", func() bool { return db.queryValue("SHOW ssl") == "on" })
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
