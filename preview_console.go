package main

// preview_console.go owns what preview shows on stderr: the connector's logs and, on a terminal, a progress line below them.

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console is a person's view of the capture. Its methods may be called from any goroutine.
type console struct {
	mu        sync.Mutex // everything below
	w         *os.File
	json      bool // logs as the connector wrote them
	colours   bool
	terminal  bool   // has a progress line
	line      string // the progress line as shown
	phase     string
	caughtUp  bool
	documents int64
	bytes     int64
	rate      float64
	lastDoc   time.Time
}

// newConsole makes one whose logs have the form that LOG_FORMAT names.
func newConsole(w *os.File, format string) *console {
	terminal := terminalWidth(w) > 0
	return &console{
		w: w, json: format == "json", colours: format == "color" || format == "" && terminal,
		terminal: terminal && format != "json", lastDoc: time.Now(),
	}
}

// terminalWidth is 0 when f is no terminal.
func terminalWidth(f *os.File) int {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if size.Col == 0 {
		return 80
	}
	return int(size.Col)
}

// log shows one log of the connector.
func (c *console) log(log connectorLog) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if log.status {
		c.phase = log.message
		c.caughtUp = isStreaming(log.message)
	}
	c.show(log)
}

// show writes a log. REQUIRES: c.mu is held.
func (c *console) show(log connectorLog) {
	text := log.message
	switch {
	case c.json && log.line != "":
		text = log.line
	case c.json:
		record, _ := json.Marshal(map[string]string{
			"time": time.Now().Format(time.RFC3339), "level": log.level, "msg": log.message,
		})
		text = string(record)
	case log.level != "":
		level := fmt.Sprintf("%-7s", log.level)
		if c.colours {
			level = fmt.Sprintf("\x1b[%dm%s\x1b[0m", colourOf(log.level), level)
		}
		text = level + " " + log.message + log.fields
	}
	_ = c.showAbove(c.w, []byte(text+"\n"))
}

// colourOf returns the terminal's code for the colour of a level, as the connector itself has them.
func colourOf(level string) int {
	switch level {
	case "panic", "fatal", "error":
		return 31
	case "warning", "warn":
		return 33
	case "info":
		return 36
	}
	return 37
}

// isStreaming tells whether a status says that every backfill is done and the stream caught up.
func isStreaming(status string) bool {
	return strings.HasPrefix(status, "Streaming CDC Events") && !strings.Contains(status, "backfill")
}

// note shows a line of preview's own.
func (c *console) note(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.caughtUp = false
	if c.json {
		text = "preview: " + text
		c.show(connectorLog{level: "info", message: text})
		return
	}
	_ = c.showAbove(c.w, []byte("preview "+text+"\n"))
}

// print writes documents.
func (c *console) print(w *os.File, lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.showAbove(w, lines)
}

// showAbove writes lines so that the progress line stays below them. REQUIRES: c.mu is held.
func (c *console) showAbove(w *os.File, lines []byte) error {
	if c.line == "" {
		_, err := w.Write(lines)
		return err
	}
	fmt.Fprint(c.w, "\r\x1b[K")
	_, err := w.Write(lines)
	fmt.Fprint(c.w, c.line)
	return err
}

// captured counts committed documents.
func (c *console) captured(documents, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.documents += documents
	c.bytes += bytes
	if documents > 0 {
		c.lastDoc = time.Now()
	}
}

// watch keeps the progress line until finished is closed, and calls idle once the capture has streamed without a
// document for that long.
func (c *console) watch(finished <-chan struct{}, untilIdle time.Duration, idle func()) {
	const interval = 100 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var before int64
	for n := 0; ; n++ {
		select {
		case <-finished:
			c.mu.Lock()
			if c.line != "" {
				fmt.Fprintln(c.w)
				c.line = ""
			}
			c.mu.Unlock()
			return
		case <-tick.C:
		}
		c.mu.Lock()
		if n%10 == 0 {
			c.rate = c.rate/2 + float64(c.documents-before)/2
			before = c.documents
		}
		if c.terminal && n%3 == 0 {
			c.line = cut(fmt.Sprintf("%s  %s documents  %s/s  %s",
				c.phase, grouped(c.documents), grouped(int64(c.rate)), byteCount(c.bytes)), terminalWidth(c.w)-1)
			fmt.Fprint(c.w, "\r\x1b[K"+c.line)
		}
		if !c.caughtUp {
			c.lastDoc = time.Now()
		}
		quiet := time.Since(c.lastDoc)
		c.mu.Unlock()
		if untilIdle > 0 && quiet >= untilIdle {
			idle()
		}
	}
}

// grouped writes n with thousands separated.
func grouped(n int64) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// cut shortens s to about n bytes, at a character boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
