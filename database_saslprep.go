// database_saslprep.go owns the password as SCRAM uses it. Invariant: where the server's preparation of a password and the driver's
// differ, the driver is handed one that its own leaves as it is, and that is the server's; where there is none, that is told.

package main

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

// saslprep returns a password as the server has prepared it for SCRAM (saslprep.c, pg_saslprep): characters without meaning
// are left out, blanks are blanks, the rest is normalized to NFKC. One that SASLprep does not allow is used as it is, and so
// is one of ASCII alone. As there, it is the text before normalization that must be allowed.
func saslprep(password string) string {
	ascii := true
	for i := range len(password) {
		ascii = ascii && password[i] < utf8.RuneSelf
	}
	if ascii || !utf8.ValidString(password) {
		return password
	}
	var mapped []rune
	for _, c := range password {
		switch {
		case unicode.Is(saslprepSpace, c):
			mapped = append(mapped, ' ')
		case !unicode.Is(saslprepNothing, c):
			mapped = append(mapped, c)
		}
	}
	if len(mapped) == 0 {
		return password
	}
	rightToLeft, leftToRight := false, false
	for _, c := range mapped {
		if unicode.Is(saslprepProhibited, c) || unicode.Is(saslprepUnassigned, c) {
			return password
		}
		rightToLeft = rightToLeft || unicode.Is(saslprepRandAL, c)
		leftToRight = leftToRight || unicode.Is(saslprepL, c)
	}
	if rightToLeft && (leftToRight || !unicode.Is(saslprepRandAL, mapped[0]) || !unicode.Is(saslprepRandAL, mapped[len(mapped)-1])) {
		return password
	}
	return norm.NFKC.String(string(mapped))
}

// sendable reports whether the driver leaves a prepared password as it is (pgconn, normalizeScramPassword). It changes a few that
// SASLprep does not allow, which the server uses as they are.
func sendable(prepared string) bool {
	for _, c := range prepared {
		if unicode.Is(saslprepUnassigned, c) {
			return true
		}
	}
	normalized, err := precis.OpaqueString.String(prepared)
	return err != nil || normalized == prepared
}
