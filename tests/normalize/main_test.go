package main

import (
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	for _, test := range []struct{ name, in, want, wantErr string }{
		{
			name: "order, ranks, volatile fields",
			in: `["acmeCo/test/t",{"id":2,"_meta":{"op":"u","source":{"ts_ms":17,"loc":[90,95,100],"txid":7},"uuid":"x"}}]` + "\n" +
				`["connectorState",{"updated":{"cursor":"0/1"}}]` + "\n" +
				`["acmeCo/test/t",{"id":1,"f":1.50,"_meta":{"op":"c","source":{"ts_ms":16,"loc":[50,90,95]}}}]`,
			want: `["t",{"_meta":{"op":"c","source":{"loc":["…","#0","#1"],"ts_ms":"…"}},"f":1.50,"id":1}]` + "\n" +
				`["t",{"_meta":{"op":"u","source":{"loc":["…","#1","#2"],"ts_ms":"…"}},"id":2}]` + "\n",
		},
		{
			name: "backfilled rows keep their place",
			in:   `["test.t",{"id":"<&>","_meta":{"op":"c","source":{"snapshot":true,"loc":[-1,0,3]}}}]`,
			want: `["t",{"_meta":{"op":"c","source":{"loc":[-1,0,3],"snapshot":true}},"id":"<&>"}]` + "\n",
		},
		{name: "nothing", in: "\n"},
		{name: "log line", in: "oops", wantErr: `line 1: want ["collection",{…}]: invalid character 'o' looking for beginning of value`},
		{name: "one element", in: "\n[1]", wantErr: `line 2: want ["collection",{…}], have 1 elements`},
		{name: "no document", in: `["t",3]`, wantErr: "line 1: document: json: cannot unmarshal number into Go value of type map[string]interface {}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out strings.Builder
			err := normalize(strings.NewReader(test.in), &out)
			if got := out.String(); got != test.want {
				t.Errorf("have %s\nwant %s", got, test.want)
			}
			var got string
			if err != nil {
				got = err.Error()
			}
			if got != test.wantErr {
				t.Errorf("error %q\nwant  %q", got, test.wantErr)
			}
		})
	}
}
