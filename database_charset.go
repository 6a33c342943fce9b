// database_charset.go owns the conversion of a database's text to UTF-8 and back, for the encodings in which the server stores bytes that
// have no meaning and refuses to convert them: so one row with such a byte would end every session for ever. Its sessions then
// have the server's own encoding for the client's, and what passes between the server and us is converted here.
//
// Invariants: what the server would convert is converted to the same. Any other byte becomes one byte that may stand in UTF-8
// only behind others, so that it is no text to whoever looks at it, and U+FFFD in a document. Converted back, every text is the
// bytes it came from: a key with such a byte finds its row.

package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// charset is a single-byte encoding that agrees with ASCII. It is not changed once made.
type charset struct {
	name  string
	text  [128]string   // of the bytes from 128 on
	bytes map[rune]byte // of the characters beyond ASCII
	stray [128]byte     // the byte that a byte without meaning came from, by what it became; 0 for none
	gaps  bool          // some bytes have no meaning
}

// charsetGrowth is how much longer a text may become when it is converted.
const charsetGrowth = 3

// charsetOf returns the charset of a server's encoding, nil for those that have none: UTF8 and SQL_ASCII, which need none, and
// encodings with characters of several bytes.
func charsetOf(encoding string) *charset {
	table, ok := charsetTables[encoding]
	if !ok {
		return nil
	}
	c := &charset{name: encoding, bytes: make(map[rune]byte, 128)}
	var lost []byte
	b := byte(128)
	for _, r := range table {
		if r == utf8.RuneError {
			lost = append(lost, b)
		} else {
			c.text[b-128], c.bytes[r] = string(r), b
		}
		b++
	}
	c.gaps = len(lost) > 0
	// Continuation bytes are those from 0x80 to 0xbf. One that has no meaning itself stands for itself.
	const end = 0xc0
	for _, b := range lost {
		if b < end {
			c.stray[b-128] = b
		}
	}
	free := byte(128)
	for _, b := range lost {
		as := b
		if b >= end {
			for c.stray[free-128] != 0 {
				free++
			}
			as = free
			c.stray[as-128] = b
		}
		c.text[b-128] = string([]byte{as})
	}
	return c
}

const (
	eachByte = 0x0101010101010101
	highBits = 0x80 * eachByte
)

// asciiRun returns how many bytes from the start of s are ASCII.
func asciiRun(s []byte) (n int) {
	for len(s)-n >= 8 && binary.LittleEndian.Uint64(s[n:])&highBits == 0 {
		n += 8
	}
	for n < len(s) && s[n] < utf8.RuneSelf {
		n++
	}
	return n
}

// decode appends a text of the server's as UTF-8.
func (c *charset) decode(dst, src []byte) []byte {
	for len(src) > 0 {
		run := asciiRun(src)
		dst = append(dst, src[:run]...)
		for src = src[run:]; len(src) > 0 && src[0] >= utf8.RuneSelf; src = src[1:] {
			dst = append(dst, c.text[src[0]-utf8.RuneSelf]...)
		}
	}
	return dst
}

// encode appends what the server has for a text. One with a character that the encoding has not is an error of SQLSTATE 22P05,
// as the server's own conversion has it.
func (c *charset) encode(dst, src []byte) ([]byte, error) {
	for len(src) > 0 {
		run := asciiRun(src)
		dst = append(dst, src[:run]...)
		for src = src[run:]; len(src) > 0 && src[0] >= utf8.RuneSelf; {
			r, n := utf8.DecodeRune(src)
			b := c.bytes[r]
			if n == 1 {
				b = c.stray[src[0]-utf8.RuneSelf]
			}
			if b == 0 {
				return dst, &pgconn.PgError{Severity: "ERROR", Code: codeUntranslatable, Message: fmt.Sprintf("%q has no equivalent in the "+
					"database's encoding %s", src[:n], c.name)}
			}
			dst = append(dst, b)
			src = src[n:]
		}
	}
	return dst, nil
}

// order returns the bytes that the server compares where a collation sorts as bytes do; text that no row can hold as it is. A nil
// charset is that of a server whose bytes are ours.
func (c *charset) order(text []byte) []byte {
	if c == nil || asciiRun(text) == len(text) {
		return text
	}
	if bytes, err := c.encode(nil, text); err == nil {
		return bytes
	}
	return text
}

// --- messages

// rewrite walks a message and appends it to dst with its texts converted. What is shorter than it says is left as it is, for
// others to complain of.
type rewrite struct {
	convert func(dst, text []byte) ([]byte, error)
	dst     []byte
	rest    []byte
	short   bool
	err     error
}

// copy appends the next n bytes and returns them.
func (w *rewrite) copy(n int) []byte {
	if w.short = w.short || n < 0 || len(w.rest) < n; w.short {
		return zeros[:min(max(n, 0), len(zeros))]
	}
	head := w.rest[:n]
	w.dst = append(w.dst, head...)
	w.rest = w.rest[n:]
	return head
}

func (w *rewrite) uint16() int { return int(binary.BigEndian.Uint16(w.copy(2))) }

// string converts a text that ends in a zero byte.
func (w *rewrite) string() {
	n := slices.Index(w.rest, 0)
	if w.short = w.short || n < 0; w.short {
		return
	}
	w.text(n)
	w.copy(1)
}

// value converts a text behind its length; of a negative length there is none.
func (w *rewrite) value() {
	n := int(int32(binary.BigEndian.Uint32(w.copy(4))))
	if n < 0 || w.short {
		return
	}
	at := len(w.dst)
	if w.text(n); !w.short {
		binary.BigEndian.PutUint32(w.dst[at-4:], uint32(len(w.dst)-at))
	}
}

func (w *rewrite) text(n int) {
	if w.short = w.short || len(w.rest) < n; w.short || w.err != nil {
		return
	}
	w.dst, w.err = w.convert(w.dst, w.rest[:n])
	w.rest = w.rest[n:]
}

// message appends a whole message, kind and length in front, as f rewrites what is behind those.
func (w *rewrite) message(dst, message []byte, f func(w *rewrite, kind byte)) ([]byte, error) {
	start := len(dst)
	w.dst, w.rest, w.short, w.err = append(dst, message[:messageHead]...), message[messageHead:], false, nil
	f(w, message[0])
	if w.err != nil {
		return dst, w.err
	}
	if w.short {
		return append(dst, message...), nil
	}
	w.dst = append(w.dst, w.rest...)
	binary.BigEndian.PutUint32(w.dst[start+1:], uint32(len(w.dst)-start-1))
	return w.dst, nil
}

// appendReceived appends a whole message of the server's, with its texts as UTF-8.
func (c *charset) appendReceived(dst, message []byte) []byte {
	if asciiRun(message[messageHead:]) == len(message)-messageHead {
		return append(dst, message...)
	}
	w := rewrite{convert: func(dst, text []byte) ([]byte, error) { return c.decode(dst, text), nil }}
	dst, _ = w.message(dst, message, received) // decode has no error
	return dst
}

// received rewrites what the server sends.
func received(w *rewrite, kind byte) {
	switch kind {
	case 'D': // DataRow
		for range w.uint16() {
			w.value()
		}
	case 'T': // RowDescription: name; table, column, type, size, modifier, format
		for range w.uint16() {
			w.string()
			w.copy(4 + 2 + 4 + 2 + 4 + 2)
		}
	case 'E', 'N': // fields, each of a kind; zero ends them
		for w.copy(1)[0] != 0 && !w.short {
			w.string()
		}
	case 'S': // ParameterStatus
		w.string()
		w.string()
	case 'd': // CopyData: of the replication protocol, XLogData
		if len(w.rest) > xlogHead-messageHead && w.rest[0] == 'w' {
			w.copy(xlogHead - messageHead)
			pgoutputTexts(w, w.copy(1)[0])
		}
	}
}

// pgoutputTexts rewrites a message of pgoutput behind its kind.
func pgoutputTexts(w *rewrite, kind byte) {
	switch kind {
	case 'I', 'U', 'D': // relation; tuples, each behind its mark
		w.copy(4)
		for len(w.rest) > 0 && !w.short {
			w.copy(1)
			for range w.uint16() {
				switch valueKind(w.copy(1)[0]) {
				case valueText:
					w.value()
				case valueBinary:
					w.copy(int(int32(binary.BigEndian.Uint32(w.copy(4)))))
				}
			}
		}
	case 'R': // relation, schema, name, identity; columns: flags, name, type, modifier
		w.copy(4)
		w.string()
		w.string()
		w.copy(1)
		for range w.uint16() {
			w.copy(1)
			w.string()
			w.copy(4 + 4)
		}
	case 'Y': // type, schema, name
		w.copy(4)
		w.string()
		w.string()
	}
}

// appendSent appends a whole message to the server, with its texts in the server's encoding.
func (c *charset) appendSent(dst, message []byte) ([]byte, error) {
	if asciiRun(message[messageHead:]) == len(message)-messageHead {
		return append(dst, message...), nil
	}
	w := rewrite{convert: c.encode}
	return w.message(dst, message, sent)
}

// sent rewrites what is sent to the server.
func sent(w *rewrite, kind byte) {
	switch kind {
	case 'Q': // Query
		w.string()
	case 'P': // Parse: name, query; types
		w.string()
		w.string()
	case 'B': // Bind: portal, statement; formats of the parameters, parameters; formats of the result
		w.string()
		w.string()
		formats := w.copy(2 * w.uint16())
		for i := range w.uint16() {
			format := formats
			if len(formats) > 2 {
				format = formats[min(2*i, len(formats)-2):]
			}
			if len(format) >= 2 && format[1] != 0 { // binary
				if n := int(int32(binary.BigEndian.Uint32(w.copy(4)))); n > 0 {
					w.copy(n)
				}
				continue
			}
			w.value()
		}
	}
}

// charsetWriter is the write half of a connection. The driver writes whole messages at a time.
type charsetWriter struct {
	out     io.Writer
	charset *charset
	buf     []byte
}

// Write writes all or nothing.
func (w *charsetWriter) Write(p []byte) (int, error) {
	w.buf = w.buf[:0]
	for rest := p; len(rest) > 0; {
		size := len(rest)
		if len(rest) >= messageHead && rest[0] != 0 { // else what begins a session, which has no kind
			size = min(size, 1+int(binary.BigEndian.Uint32(rest[1:])))
		}
		if size < messageHead || rest[0] == 0 {
			w.buf, rest = append(w.buf, rest...), nil
			continue
		}
		var err error
		if w.buf, err = w.charset.appendSent(w.buf, rest[:size]); err != nil {
			return 0, err
		}
		rest = rest[size:]
	}
	if _, err := w.out.Write(w.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

// charsetTables are the characters of the bytes from 128 on, as the server converts them (TestCharsets asks it), with U+FFFD for
// those that have no meaning. EUC, MULE_INTERNAL and other encodings of several bytes a character are not among them.
var charsetTables = map[string]string{
	"ISO_8859_5": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0ЁЂЃЄЅІЇЈЉЊЋЌ\u00adЎЏАБВГДЕЖЗИЙКЛМНОП" +
		"РСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмноп" +
		"рстуфхцчшщъыьэюя№ёђѓєѕіїјљњћќ§ўџ",
	"ISO_8859_6": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0\ufffd\ufffd\ufffd¤\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd،\u00ad\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd؛\ufffd\ufffd\ufffd؟" +
		"\ufffdءآأؤإئابةتثجحخدذرزسشصضطظعغ\ufffd\ufffd\ufffd\ufffd\ufffd" +
		"ـفقكلمنهوىيًٌٍَُِّْ\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd",
	"ISO_8859_7": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0‘’£€₯¦§¨©ͺ«¬\u00ad\ufffd―°±²³΄΅Ά·ΈΉΊ»Ό½ΎΏ" +
		"ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\ufffdΣΤΥΦΧΨΩΪΫάέήί" +
		"ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\ufffd",
	"ISO_8859_8": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0\ufffd¢£¤¥¦§¨©×«¬\u00ad®¯°±²³´µ¶·¸¹÷»¼½¾\ufffd" +
		"\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd‗" +
		"אבגדהוזחטיךכלםמןנסעףפץצקרשת\ufffd\ufffd\u200e\u200f\ufffd",
	"KOI8R": "─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■∙√≈≤≥\u00a0⌡°²·÷" +
		"═║╒ё╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡Ё╢╣╤╥╦╧╨╩╪╫╬©" +
		"юабцдефгхийклмнопярстужвьызшэщчъ" +
		"ЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ",
	"KOI8U": "─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■∙√≈≤≥\u00a0⌡°²·÷" +
		"═║╒ёє╔ії╗╘╙╚╛ґ╝╞╟╠╡ЁЄ╣ІЇ╦╧╨╩╪Ґ╬©" +
		"юабцдефгхийклмнопярстужвьызшэщчъ" +
		"ЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ",
	"LATIN1": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß" +
		"àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
	"LATIN10": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0ĄąŁ€„Š§š©Ș«Ź\u00adźŻ°±ČłŽ”¶·žčș»ŒœŸż" +
		"ÀÁÂĂÄĆÆÇÈÉÊËÌÍÎÏĐŃÒÓÔŐÖŚŰÙÚÛÜĘȚß" +
		"àáâăäćæçèéêëìíîïđńòóôőöśűùúûüęțÿ",
	"LATIN2": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u00adŽŻ°ą˛ł´ľśˇ¸šşťź˝žż" +
		"ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß" +
		"ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
	"LATIN3": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0Ħ˘£¤\ufffdĤ§¨İŞĞĴ\u00ad\ufffdŻ°ħ²³´µĥ·¸ışğĵ½\ufffdż" +
		"ÀÁÂ\ufffdÄĊĈÇÈÉÊËÌÍÎÏ\ufffdÑÒÓÔĠÖ×ĜÙÚÛÜŬŜß" +
		"àáâ\ufffdäċĉçèéêëìíîï\ufffdñòóôġö÷ĝùúûüŭŝ˙",
	"LATIN4": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0ĄĸŖ¤ĨĻ§¨ŠĒĢŦ\u00adŽ¯°ą˛ŗ´ĩļˇ¸šēģŧŊžŋ" +
		"ĀÁÂÃÄÅÆĮČÉĘËĖÍÎĪĐŅŌĶÔÕÖ×ØŲÚÛÜŨŪß" +
		"āáâãäåæįčéęëėíîīđņōķôõö÷øųúûüũū˙",
	"LATIN5": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß" +
		"àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
	"LATIN6": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0ĄĒĢĪĨĶ§ĻĐŠŦŽ\u00adŪŊ°ąēģīĩķ·ļđšŧž―ūŋ" +
		"ĀÁÂÃÄÅÆĮČÉĘËĖÍÎÏÐŅŌÓÔÕÖŨØŲÚÛÜÝÞß" +
		"āáâãäåæįčéęëėíîïðņōóôõöũøųúûüýþĸ",
	"LATIN7": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0”¢£¤„¦§Ø©Ŗ«¬\u00ad®Æ°±²³“µ¶·ø¹ŗ»¼½¾æ" +
		"ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß" +
		"ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž’",
	"LATIN8": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0Ḃḃ£ĊċḊ§Ẁ©ẂḋỲ\u00ad®ŸḞḟĠġṀṁ¶ṖẁṗẃṠỳẄẅṡ" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏŴÑÒÓÔÕÖṪØÙÚÛÜÝŶß" +
		"àáâãäåæçèéêëìíîïŵñòóôõöṫøùúûüýŷÿ",
	"LATIN9": "\u0080\u0081\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008d\u008e\u008f\u0090\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009d\u009e\u009f" +
		"\u00a0¡¢£€¥Š§š©ª«¬\u00ad®¯°±²³Žµ¶·ž¹º»ŒœŸ¿" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß" +
		"àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
	"WIN1250": "€\ufffd‚\ufffd„…†‡\ufffd‰Š‹ŚŤŽŹ\ufffd‘’“”•–—\ufffd™š›śťžź" +
		"\u00a0ˇ˘Ł¤Ą¦§¨©Ş«¬\u00ad®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż" +
		"ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß" +
		"ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙",
	"WIN1251": "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\ufffd™љ›њќћџ" +
		"\u00a0ЎўЈ¤Ґ¦§Ё©Є«¬\u00ad®Ї°±Ііґµ¶·ё№є»јЅѕї" +
		"АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ" +
		"абвгдежзийклмнопрстуфхцчшщъыьэюя",
	"WIN1252": "€\ufffd‚ƒ„…†‡ˆ‰Š‹Œ\ufffdŽ\ufffd\ufffd‘’“”•–—˜™š›œ\ufffdžŸ" +
		"\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß" +
		"àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ",
	"WIN1253": "€\ufffd‚ƒ„…†‡\ufffd‰\ufffd‹\ufffd\ufffd\ufffd\ufffd\ufffd‘’“”•–—\ufffd™\ufffd›\ufffd\ufffd\ufffd\ufffd" +
		"\u00a0΅Ά£¤¥¦§¨©\ufffd«¬\u00ad®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ" +
		"ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ\ufffdΣΤΥΦΧΨΩΪΫάέήί" +
		"ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ\ufffd",
	"WIN1254": "€\ufffd‚ƒ„…†‡ˆ‰Š‹Œ\ufffd\ufffd\ufffd\ufffd‘’“”•–—˜™š›œ\ufffd\ufffdŸ" +
		"\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿" +
		"ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß" +
		"àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ",
	"WIN1255": "€\ufffd‚ƒ„…†‡ˆ‰\ufffd‹\ufffd\ufffd\ufffd\ufffd\ufffd‘’“”•–—˜™\ufffd›\ufffd\ufffd\ufffd\ufffd" +
		"\u00a0¡¢£₪¥¦§¨©×«¬\u00ad®¯°±²³´µ¶·¸¹÷»¼½¾¿" +
		"ְֱֲֳִֵֶַָֹ\ufffdֻּֽ־ֿ׀ׁׂ׃װױײ׳״\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd" +
		"אבגדהוזחטיךכלםמןנסעףפץצקרשת\ufffd\ufffd\u200e\u200f\ufffd",
	"WIN1256": "€پ‚ƒ„…†‡ˆ‰ٹ‹Œچژڈگ‘’“”•–—ک™ڑ›œ\u200c\u200dں" +
		"\u00a0،¢£¤¥¦§¨©ھ«¬\u00ad®¯°±²³´µ¶·¸¹؛»¼½¾؟" +
		"ہءآأؤإئابةتثجحخدذرزسشصض×طظعغـفقك" +
		"àلâمنهوçèéêëىيîïًٌٍَôُِ÷ّùْûü\u200e\u200fے",
	"WIN1257": "€\ufffd‚\ufffd„…†‡\ufffd‰\ufffd‹\ufffd¨ˇ¸\ufffd‘’“”•–—\ufffd™\ufffd›\ufffd¯˛\ufffd" +
		"\u00a0\ufffd¢£¤\ufffd¦§Ø©Ŗ«¬\u00ad®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ" +
		"ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß" +
		"ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙",
	"WIN1258": "€\ufffd‚ƒ„…†‡ˆ‰\ufffd‹Œ\ufffd\ufffd\ufffd\ufffd‘’“”•–—˜™\ufffd›œ\ufffd\ufffdŸ" +
		"\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¸¹º»¼½¾¿" +
		"ÀÁÂĂÄÅÆÇÈÉÊË̀ÍÎÏĐÑ̉ÓÔƠÖ×ØÙÚÛÜỮß" +
		"àáâăäåæçèéêë́íîïđṇ̃óôơö÷øùúûüư₫ÿ",
	"WIN866": "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ" +
		"абвгдежзийклмноп░▒▓│┤╡╢╖╕╣║╗╝╜╛┐" +
		"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀" +
		"рстуфхцчшщъыьэюяЁёЄєЇїЎў°∙·√№¤■\u00a0",
	"WIN874": "€\ufffd\ufffd\ufffd\ufffd…\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd‘’“”•–—\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd" +
		"\u00a0กขฃคฅฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟ" +
		"ภมยรฤลฦวศษสหฬอฮฯะัาำิีึืฺุู\ufffd\ufffd\ufffd\ufffd฿" +
		"เแโใไๅๆ็่้๊๋์ํ๎๏๐๑๒๓๔๕๖๗๘๙๚๛\ufffd\ufffd\ufffd\ufffd",
}
