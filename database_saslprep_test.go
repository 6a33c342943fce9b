package main

// Goal: a password is prepared as the server does it, and the driver logs in with it. Method: the server keeps a password as
// salted hashes, so that what it made of one can be told without a login; then logins with the passwords that people have.

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"
)

// verifies reports whether the server would take a prepared password for one that it keeps as that verifier
// (SCRAM-SHA-256$iterations:salt$stored:server).
func verifies(t *testing.T, verifier, prepared string) bool {
	t.Helper()
	var iterations int
	parts := strings.Split(verifier, "$")
	count, salt64, _ := strings.Cut(parts[1], ":")
	stored64, _, _ := strings.Cut(parts[2], ":")
	if _, err := fmt.Sscan(count, &iterations); err != nil {
		t.Fatal(err)
	}
	salt, err := base64.StdEncoding.DecodeString(salt64)
	if err != nil {
		t.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha256.New, prepared, salt, iterations, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha256.New, salted)
	mac.Write([]byte("Client Key"))
	stored := sha256.Sum256(mac.Sum(nil))
	want, err := base64.StdEncoding.DecodeString(stored64)
	return err == nil && bytes.Equal(stored[:], want)
}

// passwords are what is hard to prepare, by what it is of.
var passwords = []string{
	"plain", "m²geheim", "™½…ﬁ", "ｆｕｌｌ ｗｉｄｔｈ", "so\u00adft", "no\u00a0break", "thin\u2009space\u3000", "\u0378 is unassigned", "👍🏽",
	"שלום", "שלום1", "1שלום", "aשלום", "של\u00a0ום", "של\u00a0ום a", "e\u0301 and é", "\u212b", "Å", "ẞß", "\u200bzero", "\ufeff", "\u00ad", "priv\ue000ate",
	"bell\u0007é", "\u1100\u1161\u11a8", "각", "ﷺ", "\u0340", "\u2028", "tag\U000e0041", "\ufb2a", "İ", "ſ", "𝐛𝐨𝐥𝐝", "日本語", "ﾊﾟｽﾜｰﾄﾞ",
}

func TestSaslprep(t *testing.T) {
	db := newTestDB(t)
	if db.version() >= 160000 {
		db.exec("SET scram_iterations = 1")
	}
	role := quoteIdent(db.name("prepared"))
	db.exec("SET password_encryption = 'scram-sha-256'")
	db.exec("CREATE ROLE " + role)
	defer db.exec("DROP ROLE " + role)
	list := append([]string{}, passwords...)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	pieces := []rune("aZ1 é²\u00a0\u00ad\u0301\u0378אבع1ﬁＡ\u200b각ᄀ\u1161\ue000™½\u2126\u0007")
	n := 300
	if *longTests {
		n = 5000
	}
	for range n {
		var b strings.Builder
		for range 1 + random.IntN(6) {
			c := pieces[random.IntN(len(pieces))]
			if random.IntN(3) == 0 {
				c = rune(0x80 + random.IntN(0x2ff80))
			}
			if c < 0xd800 || c > 0xdfff {
				b.WriteRune(c)
			}
		}
		if b.Len() > 0 {
			list = append(list, b.String())
		}
	}
	for _, password := range list {
		db.exec("ALTER ROLE " + role + " PASSWORD " + quoteLiteral(password))
		verifier := db.queryValue("SELECT rolpassword FROM pg_authid WHERE rolname = $1", db.name("prepared"))
		if prepared := saslprep(password); !verifies(t, verifier, prepared) {
			t.Errorf("%+q is not what the server made of %+q", prepared, password)
		}
	}
}

// TestPasswords: logins with them, where the server keeps them for SCRAM and where it keeps them as they are.
func TestPasswords(t *testing.T) {
	startServer(t)
	db := newTestDB(t)
	db.allow("host all all 127.0.0.1/32 md5") // which is SCRAM for a password that is kept for that
	name := db.name("login")
	db.exec("CREATE ROLE " + quoteIdent(name) + " LOGIN")
	defer db.exec("DROP ROLE " + quoteIdent(name))
	for _, encryption := range []string{"scram-sha-256", "md5"} {
		unsent := map[string]bool{"\u0340": encryption != "md5", "של\u00a0ום a": encryption != "md5"}
		db.exec("SET password_encryption = " + quoteLiteral(encryption))
		for _, password := range passwords {
			db.exec("ALTER ROLE " + quoteIdent(name) + " PASSWORD " + quoteLiteral(password))
			s := db.settings()
			s.user, s.password = name, password
			conn, err := connectDatabase(context.Background(), s)
			if err == nil {
				conn.close()
			}
			if told := err != nil && strings.Contains(err.Error(), advicePreparation); told != unsent[password] || err != nil && !told {
				t.Errorf("%s: %+q: %v", encryption, password, err)
			}
		}
	}
}

// allow has the server take connections by these rules of pg_hba.conf alone.
func (db *testDB) allow(rules string) {
	db.Helper()
	file := db.queryValue("SHOW hba_file")
	info, err := os.Stat(file)
	if err == nil {
		err = os.WriteFile(file, []byte(rules+"\n"), info.Mode())
	}
	if err != nil {
		db.Skipf("the server's files cannot be written (it runs in a container?): %v", err)
	}
	db.exec("SELECT pg_reload_conf()")
	db.eventually("the rules to be in force", func() bool {
		return db.queryValue("SELECT count(*)::text FROM pg_hba_file_rules") == fmt.Sprint(strings.Count(rules, "\n")+1)
	})
	time.Sleep(100 * time.Millisecond) // the view shows the file, not what is in force
}
