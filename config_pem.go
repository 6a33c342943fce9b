// config_pem.go owns how PEM text is taken that went through a form, a shell or YAML on its way to us.
//
// Invariant: what is well formed comes out meaning the same, and nothing that is no PEM block becomes one.

package main

import (
	"regexp"
	"strings"
	"unicode"
)

var (
	pemBlock  = regexp.MustCompile(`(?s)-----BEGIN ([A-Z0-9][A-Z0-9 ]*)-----(.*?)-----END ([A-Z0-9][A-Z0-9 ]*)-----`)
	pemHeader = regexp.MustCompile(`(?s)^\s*(Proc-Type:\s*\S+)(\s+DEK-Info:\s*\S+)?`)
	newlines  = strings.NewReplacer(`\r\n`, "\n", `\n`, "\n", `\r`, "\n", `\t`, " ")
)

// pastedPEM returns the blocks of text as encoding/pem reads them: lines may have been indented, joined with blanks or with
// nothing, or be separated by \n in two characters. Text without a block is returned as it is.
func pastedPEM(text string) string {
	var b strings.Builder
	for _, m := range pemBlock.FindAllStringSubmatch(newlines.Replace(text), -1) {
		kind, body := m[1], m[2]
		b.WriteString("-----BEGIN " + kind + "-----\n")
		if header := pemHeader.FindStringSubmatch(body); header != nil { // it is encrypted
			body = body[len(header[0]):]
			for _, line := range header[1:] {
				if line = strings.TrimSpace(line); line != "" {
					b.WriteString(line + "\n")
				}
			}
			b.WriteString("\n")
		}
		body = strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) || r == '\u200b' || r == '\ufeff' {
				return -1
			}
			return r
		}, body)
		for len(body) > 64 {
			b.WriteString(body[:64] + "\n")
			body = body[64:]
		}
		b.WriteString(body + "\n-----END " + m[3] + "-----\n")
	}
	if b.Len() == 0 {
		return text
	}
	return b.String()
}
