package main

// kit_scripted_test.go is a connector without a database: it counts. Document n has the key n, the state is the count, and
// the variable SCRIPT says where it dies or misbehaves.

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	pc "github.com/estuary/flow/go/protocols/capture"
	pf "github.com/estuary/flow/go/protocols/flow"
	"github.com/gogo/protobuf/jsonpb"
)

// script is parsed from the variable SCRIPT, as JSON.
type script struct {
	Documents int    `json:"documents"` // in all
	Per       int    `json:"per"`       // a checkpoint
	DieAt     []int  `json:"dieAt"`     // SIGKILL before these documents, once each
	Marks     string `json:"marks"`     // directory that remembers the deaths
	Fault     string `json:"fault"`
	// Of the requests that reach connectors of this script, counted from 1 over all processes, the one that is not answered:
	// HoldAt says so in a log and goes on for ever, but for Spec and Open to the end of stdin, then ends with status 0;
	// LeaveAt ends with status 0 at once.
	HoldAt  int `json:"holdAt"`
	LeaveAt int `json:"leaveAt"`
	// Applied has a state as long as it is asked with one that counts fewer than this.
	Applies int  `json:"applies"`
	Talk    bool `json:"talk"` // logs what Apply and Open come with
}

// requests counts a request, and returns how many there have been.
func (s *script) requests() int {
	for n := 1; ; n++ {
		f, err := os.OpenFile(filepath.Join(s.Marks, fmt.Sprint("request", n)), os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			f.Close()
			return n
		}
	}
}

type scripted struct {
	script
	json bool
	in   *bufio.Reader
	out  *bufio.Writer
}

func scriptedConnector() int {
	c := &scripted{
		json: os.Getenv("FLOW_RUNTIME_CODEC") == "json",
		in:   bufio.NewReader(os.Stdin),
		out:  bufio.NewWriter(os.Stdout),
	}
	if err := json.Unmarshal([]byte(os.Getenv("SCRIPT")), &c.script); err != nil {
		panic(err)
	}
	for first := true; ; first = false {
		r, err := c.receive()
		if err == io.EOF {
			return 0
		}
		if err != nil {
			panic(err)
		}
		if first != (r.Spec != nil && len(r.Internal) == 0) && r.Spec == nil {
			panic("the first request is not Spec")
		}
		if n := c.requests(); n == c.LeaveAt {
			return 0
		} else if n == c.HoldAt {
			fmt.Fprintln(os.Stderr, `{"level":"info","msg":"the request is not answered"}`)
			_, _ = io.Copy(io.Discard, c.in)
			if r.Spec == nil && r.Open == nil { // stdin ends behind the other requests at once
				time.Sleep(time.Hour)
			}
			return 0
		}
		switch {
		case r.Spec != nil:
			c.send(&pc.Response{Spec: &pc.Response_Spec{
				Protocol: 3032023, ConfigSchemaJson: []byte(`{"a":1}`), ResourceConfigSchemaJson: []byte(`{}`),
				DocumentationUrl: "https://example.com", ResourcePathPointers: []string{"/namespace", "/stream"},
			}})
		case r.Discover != nil:
			if c.Fault == "discover" {
				fmt.Fprintln(os.Stderr, `{"level":"info","msg":"connecting"}`)
				fmt.Fprintln(os.Stderr, `{"level":"fatal","msg":"cannot connect: no such host","error":"x"}`)
				return 1
			}
			for range map[bool]int{true: 2, false: 1}[c.Fault == "twice"] {
				c.send(&pc.Response{Discovered: &pc.Response_Discovered{Bindings: []*pc.Response_Discovered_Binding{
					scriptedTable("public", "t", "", "id"),
					scriptedTable("other", "keyless", "Without Primary Key",
						"_meta/source/loc/0", "_meta/source/loc/1", "_meta/source/loc/2"),
				}}})
			}
		case r.Validate != nil:
			validated := new(pc.Response_Validated)
			for _, b := range r.Validate.Bindings {
				table, _, _ := tableOfResource(b.ResourceConfigJson)
				validated.Bindings = append(validated.Bindings, &pc.Response_Validated_Binding{
					ResourcePath: []string{table.schema, table.name},
				})
			}
			if err := r.Validate_(); err != nil {
				panic(err)
			}
			c.send(&pc.Response{Validated: validated})
		case r.Apply != nil:
			if err := r.Validate_(); err != nil {
				panic(err)
			}
			c.talk("applied with %s\n", r.Apply.StateJson)
			var state struct {
				Applied int `json:"applied"`
			}
			_ = json.Unmarshal(r.Apply.StateJson, &state)
			applied := new(pc.Response_Applied)
			if state.Applied < c.Applies {
				patch := fmt.Appendf(nil, `{"applied":%d}`, state.Applied+1)
				applied.State = &pf.ConnectorState{UpdatedJson: patch, MergePatch: true}
			}
			c.send(&pc.Response{Applied: applied})
		case r.Open != nil:
			if err := r.Validate_(); err != nil {
				panic(err)
			}
			c.talk("opened with %s\n", r.Open.Capture.ConfigJson)
			return c.capture(r.Open)
		}
	}
}

// talk logs, where that is wanted.
func (c *scripted) talk(format string, args ...any) {
	if c.Talk {
		text, _ := json.Marshal(fmt.Sprintf(format, args...))
		fmt.Fprintf(os.Stderr, `{"level":"info","msg":%s}`+"\n", text)
	}
}

func scriptedTable(schema, name, mode string, key ...string) *pc.Response_Discovered_Binding {
	resource, _ := json.Marshal(map[string]string{"namespace": schema, "stream": name, "mode": mode})
	for i := range key {
		key[i] = "/" + key[i]
	}
	return &pc.Response_Discovered_Binding{
		RecommendedName: schema + "/" + name, ResourceConfigJson: resource, Key: key,
		DocumentSchemaJson: []byte(`{"type":"object","properties":{"id":{"type":"integer"}}}`),
	}
}

// capture counts from the state on. What it writes reaches the pipe at once, so that a death finds it there.
func (c *scripted) capture(open *pc.Request_Open) int {
	var state struct {
		Count int            `json:"count"`
		Seen  map[string]int `json:"seen"`
	}
	if err := json.Unmarshal(open.StateJson, &state); err != nil {
		panic(err)
	}
	c.send(&pc.Response{Opened: &pc.Response_Opened{ExplicitAcknowledgements: true}})
	done := make(chan int)
	go func() {
		acknowledged := 0
		for {
			r, err := c.receive()
			if err != nil {
				if c.Fault == "deaf" {
					select {}
				}
				done <- acknowledged
				return
			}
			acknowledged += int(r.Acknowledge.Checkpoints)
			fmt.Fprintf(os.Stderr, `{"level":"info","msg":"acknowledged %d"}`+"\n", acknowledged)
		}
	}()
	checkpoints := 0
	for n := state.Count + 1; n <= c.Documents; n++ {
		for _, at := range c.DieAt {
			mark := filepath.Join(c.Marks, fmt.Sprint("died", at))
			if _, err := os.Stat(mark); n == at && err != nil {
				os.WriteFile(mark, nil, 0o600)
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		// A blank line in the middle: JSON columns can have one in the protobuf codec.
		doc := fmt.Sprintf(`{"_meta":{"op":"c","source":{"schema":"public","table":"t","snapshot":true,"loc":[-1,%d,0]}},"id":%d}`, n, n)
		if !c.json && n%10 == 0 {
			doc = strings.Replace(doc, `,"id"`, ",\n\n\"id\"", 1)
		}
		c.send(&pc.Response{Captured: &pc.Response_Captured{DocJson: []byte(doc)}})
		if n == 3 {
			switch c.Fault {
			case "partial":
				c.out.WriteString("\x20\x00")
				c.out.Flush()
				return 0
			case "hang":
				c.out.WriteString("\x20\x00")
				c.out.Flush()
				fmt.Fprintln(os.Stderr, `{"level":"info","msg":"half a message is out"}`)
				select {}
			case "inside":
				return 0
			case "binding":
				c.send(&pc.Response{Captured: &pc.Response_Captured{Binding: 7, DocJson: []byte(`{}`)}})
			case "crash":
				fmt.Fprintln(os.Stderr, `{"level":"info","msg":"capturing"}`)
				fmt.Fprint(os.Stderr, "panic: oh no\n\ngoroutine 1:\n")
				return 2
			}
		}
		if n%c.Per == 0 || n == c.Documents {
			patch := fmt.Sprintf(`{"count":%d,"seen":{"a%d":%d,"a%d":null}}`, n, n, n, n-c.Per)
			c.send(&pc.Response{Checkpoint: &pc.Response_Checkpoint{
				State: &pf.ConnectorState{UpdatedJson: []byte(patch), MergePatch: true},
			}})
			checkpoints++
			if c.Fault == "between" {
				return 0
			}
		}
	}
	if level := os.Getenv("LOG_LEVEL"); level != "info" {
		fmt.Fprintf(os.Stderr, `{"level":%[1]q,"msg":"at level %[1]s"}`+"\n", level)
	}
	fmt.Fprintln(os.Stderr, `{"level":"info","msg":"Streaming CDC Events","eventType":"connectorStatus"}`)
	if os.Getenv("SHUTDOWN_AFTER_POLLING") == "yes" {
		return 0
	}
	fmt.Fprintf(os.Stderr, `{"level":"info","msg":"%d checkpoints, %d acknowledged"}`+"\n", checkpoints, <-done)
	return 0
}

func (c *scripted) receive() (*pc.Request, error) {
	r := new(pc.Request)
	if c.json {
		line, err := c.in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		return r, jsonpb.UnmarshalString(string(line), r)
	}
	var head [4]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.LittleEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.in, body); err != nil {
		return nil, err
	}
	return r, r.Unmarshal(body)
}

func (c *scripted) send(r *pc.Response) {
	if c.json {
		text, err := new(jsonpb.Marshaler).MarshalToString(r)
		if err != nil {
			panic(err)
		}
		c.out.WriteString(text + "\n")
	} else {
		body, err := r.Marshal()
		if err != nil {
			panic(err)
		}
		binary.Write(c.out, binary.LittleEndian, uint32(len(body)))
		c.out.Write(body)
	}
	c.out.Flush()
}
