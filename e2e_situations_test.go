package main

// e2e_situations_test.go does to a database what people do to theirs while it is captured, or while the capture is stopped.
//
// Goal: nothing is lost without a word. Whatever is done, in the end the collections equal the tables that are captured,
// those that are not are named with the reason, and the other tables go on. Method: a table of situations, five lines each:
// SQL to set up, steps, and what must be said. Beside every situation a healthy table is captured, which must come through.
//
// In SQL, {s} is the situation's schema (which is the search path, too), {s2} another one, {pub} its publication, {slot} its slot, {wm} its
// watermarks table, {role} a role of its own that may replicate and read all (where the set-up names it, the capture logs in
// with it), and {app} another role. Every table of {s} that the set-up makes, and no partition, is bound; it is in {pub} unless the set-up
// makes that itself.
//
// A step is SQL, each statement for itself unless a BEGIN says otherwise, or one of
//
//	@capture        validate and start, without waiting for anything (else that is done ahead of the first step, with
//	                @streaming behind it)
//	@streaming      wait until the backfills are done
//	@look           wait until the capture has looked into the catalog anew
//	@sync           wait until all that was committed has come out, as far as the healthy table shows
//	@stop, @start   stop the capture, start it again
//	@say TEXT       wait until a log matches the regular expression, from the last @say on
//	@slot           wait until the server has the slot, which may still be in the making
//	@rows N         wait for N documents
//	N> SQL, N& SQL  on the session called N, waiting for it to return, or until it waits for a lock

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// situation is one row of the table.
type situation struct {
	name     string
	from, to int // major versions of the server that it is possible on; 0: any
	setup    string
	advanced map[string]any // of the endpoint config
	steps    string         // one a line
	refuse   string         // validation fails with an error that matches; nothing else is done
	say      string         // what must have been logged at the end, regular expressions, one a line
	silent   string         // what must not have been logged, one a line
	parked   string         // tables that are not captured in the end
	ghosts   bool           // documents may remain of rows that vanished unseen
	short    bool           // also in the short form of the campaign
	live     bool           // it means something only while the capture runs
	end      string         // the session ends by itself, with an error that matches
}

// situations are what has gone wrong in the field, and what is like it.
var situations = []situation{
	{
		name: "a table leaves the publication and returns", short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} drop table t
			update t set v = 'b'
			alter publication {pub} add table t`,
		say: `t_?\S* was taken out of publication`,
	},
	{
		name: "the publication sends inserts only for a moment", short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} set (publish = 'insert')
			update t set v = 'b' where id < 5; delete from t where id = 9
			alter publication {pub} set (publish = 'insert, update, delete, truncate')`,
		say: `perhaps left out for some time by publication`, ghosts: true,
	},
	{
		name:  "the publication sends inserts only for several looks",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} set (publish = 'insert')
			@say are no longer captured: the publication \S+ does not publish update and delete. Run: ALTER PUBLICATION \S+ SET \(publish = 'insert, update, delete, truncate'\);
			update t set v = 'b' where id < 5; delete from t where id = 9
			@look
			alter publication {pub} set (publish = 'insert, update, delete, truncate')
			@say t is there anew`,
		ghosts: true,
	},
	{
		name:  "the publication sends inserts only while the capture is stopped",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `@stop
			alter publication {pub} set (publish = 'insert, delete')
			update t set v = 'b' where id < 5
			alter publication {pub} set (publish = 'insert, update, delete, truncate')
			@start`,
		say: `perhaps left out for some time by publication`,
	},
	{
		name: "partitions published by themselves for a moment", short: true,
		setup: `create table p (id int primary key, v text) partition by range (id); create table p1 partition of p for values from (0) to (100)
			; create table p2 partition of p for values from (100) to (200); insert into p select g, 'a' from generate_series(1, 150) g`,
		steps: `alter publication {pub} set (publish_via_partition_root = false)
			update p set v = 'b' where id < 5; insert into p values (199, 'new')
			alter publication {pub} set (publish_via_partition_root = true)`,
		say: `left out for some time by publication`,
	},
	{
		name:  "partitions published by themselves for several looks",
		setup: `create table p (id int primary key, v text) partition by range (id); create table p1 partition of p for values from (0) to (100); insert into p select g, 'a' from generate_series(1, 50) g`,
		steps: `alter publication {pub} set (publish_via_partition_root = false)
			update p set v = 'b' where id < 5
			@say p is no longer captured: .*run ALTER PUBLICATION \S+ SET \(publish_via_partition_root = true\)
			@look
			insert into p values (99, 'new')
			alter publication {pub} set (publish_via_partition_root = true)
			@say p is there anew`,
	},
	{
		name:  "partitions published by themselves while the capture is stopped",
		setup: `create table p (id int primary key, v text) partition by range (id); create table p1 partition of p for values from (0) to (100); insert into p select g, 'a' from generate_series(1, 50) g`,
		steps: `@stop
			alter publication {pub} set (publish_via_partition_root = false)
			update p set v = 'b' where id < 5
			alter publication {pub} set (publish_via_partition_root = true)
			@start`,
		say: `left out for some time by publication`,
	},
	{
		name: "unlogged for a moment", from: 15, short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter table t set unlogged
			update t set v = 'b' where id < 5
			alter table t set logged`,
		say: `SET UNLOGGED and SET LOGGED|t is no longer captured: it is unlogged`,
	},
	{
		name: "unlogged for a moment, without long values", from: 15,
		setup: `create table t (id int primary key, v int); insert into t select g, 0 from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter table t set unlogged
			update t set v = 1 where id < 5
			alter table t set logged`,
		say: `SET UNLOGGED and SET LOGGED|t is no longer captured: it is unlogged`,
	},
	{
		name: "unlogged for several looks", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter table t set unlogged
			@say t is no longer captured: it is unlogged.* Run: ALTER TABLE \S+ SET LOGGED;
			update t set v = 'b' where id < 5
			@look
			alter table t set logged
			@say t is there anew`,
	},
	{
		name: "unlogged while the capture is stopped", from: 15,
		setup: `create table t (id int primary key, v text); create table u (id int primary key, v int); insert into t select g, 'a' from generate_series(1, 10) g; insert into u select g, 0 from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `@stop
			alter table t set unlogged; alter table u set unlogged
			update t set v = 'b' where id < 5; update u set v = 1
			alter table t set logged; alter table u set logged
			@start`,
		say: `t was rewritten in a way that ALTER TABLE … SET UNLOGGED
			u was rewritten in a way that ALTER TABLE … SET UNLOGGED`,
	},
	{
		name:  "truncated without long values",
		setup: `create table t (id int primary key, v int); insert into t select g, 0 from generate_series(1, 10) g`,
		steps: `truncate t
			insert into t values (1, 1)
			@look
			@sync
			@look
			@stop
			truncate t; insert into t values (1, 2)
			@start
			@sync
			@look`,
		say: `was truncated`, silent: `backfilled`, ghosts: true,
	},
	{
		name:  "a partition is unlogged for a moment",
		setup: `create table p (id int primary key, v text) partition by range (id); create table p1 partition of p for values from (0) to (100); create table p2 partition of p for values from (100) to (200); insert into p select g, 'a' from generate_series(1, 150) g`,
		steps: `alter table p1 set unlogged
			update p set v = 'b' where id < 5
			alter table p1 set logged
			update p set v = 'c' where id = 101`,
		say: `Partition \S+p1: .*captured now|p is no longer captured: its partition \S+p1 is unlogged`,
	},
	{
		name:  "a partition is unlogged for several looks",
		setup: `create table p (id int primary key, v text) partition by range (id); create table p1 partition of p for values from (0) to (100); create table p2 partition of p for values from (100) to (200); insert into p select g, 'a' from generate_series(1, 150) g`,
		steps: `alter table p1 set unlogged
			@say p is no longer captured: its partition \S+ is unlogged.* run ALTER TABLE \S+p1 SET LOGGED
			update p set v = 'b' where id < 5
			@look
			alter table p1 set logged
			@say p is there anew`,
	},
	{
		name:  "a partition is unlogged while the capture is stopped",
		setup: `create table p (id int primary key, v int) partition by range (id); create table p1 partition of p for values from (0) to (100); create table p2 partition of p for values from (100) to (200); insert into p select g, 0 from generate_series(1, 150) g`,
		steps: `@stop
			alter table p1 set unlogged
			update p set v = 1 where id < 5
			alter table p1 set logged
			update p set v = 2 where id = 101
			@start`,
		say: `Partition \S+p1: .*captured now`,
	},
	{
		name: "out of a published schema and back", from: 15, short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter table t set schema {s2}
			update {s2}.t set v = 'b'
			alter table {s2}.t set schema {s}`,
		say: `taken out of publication|t is there anew`,
	},
	{
		name: "out of a published schema and back while the capture is stopped", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `@stop
			alter table t rename to t_away; alter table t_away set schema {s2}
			update {s2}.t_away set v = 'b'
			alter table {s2}.t_away set schema {s}; alter table t_away rename to t
			@start`,
		say: `taken out of publication`,
	},
	{
		name: "a published schema changes owners and rights of tables", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter table t owner to {app}; grant select on t to {role}
			@look
			insert into t values (11, 'b')
			@look`,
		silent: `backfilled|no longer captured`,
	},
	{
		name: "a schema leaves the publication and returns", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `alter publication {pub} drop tables in schema {s}
			update t set v = 'b'
			alter publication {pub} add tables in schema {s}`,
		say: `taken out of publication|t is there anew`,
	},
	{
		name: "a row filter for a moment", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} set table t where (id > 5), beside, {wm}
			update t set v = 'b'
			alter publication {pub} set table t, beside, {wm}`,
		say: `taken out of publication`,
	},
	{
		name:  "the publication is made anew",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `@stop
			begin; drop publication {pub}; create publication {pub} for table t, beside, {wm}; commit
			@start`,
		say: `created anew`,
	},
	{
		name:  "the publication has another owner",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} owner to current_user
			alter publication {pub} owner to {app}
			@look
			update t set v = 'b'`,
		silent: `no longer captured`,
	},
	{
		name: "the publication is renamed and back", from: 18, short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} rename to {app}
			update t set v = 'b' where id < 5
			alter publication {app} rename to {pub}
			update t set v = 'c' where id > 8`,
		say: `left out for some time by publication|is there anew`,
	},
	{
		name: "the publication is away for several looks", from: 18,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} rename to {app}
			update t set v = 'b' where id < 5
			@say are no longer captured: publication \S+ does not exist any more; rename it back, or run CREATE PUBLICATION
			@look
			alter publication {app} rename to {pub}
			@say t is there anew`,
		say: `skipped loading publication`,
	},
	{
		name: "columns come while the slot is made",
		setup: `create table t (id int primary key, v text); create table u (id int primary key, v text)
			; insert into t select g, 'a' from generate_series(1, 10) g; insert into u select g, 'a' from generate_series(1, 10) g
			; create table {s2}.elsewhere (id int)`,
		steps: `1> begin; insert into {s2}.elsewhere values (1)
			@capture
			@slot
			alter table t add column c text; insert into t (id, v, c) values (11, 'b', 'must not be lost'); alter table u drop column v; alter table u add column v int; insert into u values (11, 7)
			1> commit
			@streaming
			update u set id = id + 100 where id < 3`,
	},
	{
		name: "tables are made anew while the slot is made",
		setup: `create table t (id int primary key, v text); create table u (id int primary key, v text)
			; insert into t select g, 'a' from generate_series(1, 10) g; insert into u select g, 'a' from generate_series(1, 10) g
			; create table {s2}.elsewhere (id int)`,
		steps: `1> begin; insert into {s2}.elsewhere values (1)
			@capture
			@slot
			drop table t; create table t (w text, id int primary key); insert into t values ('new', 1); grant select on t to public; alter publication {pub} add table t; alter table u rename to u_old; create table u (id int primary key, v text, x int); insert into u values (1, 'new', 1); alter publication {pub} add table u
			1> commit
			@streaming
			update u set id = id + 100 where id < 3`,
	},
	{
		name: "types change while the slot is made",
		setup: `create table t (id int primary key, v text); create table u (id int primary key, v text)
			; insert into t select g, 'a' from generate_series(1, 10) g; insert into u select g, 'a' from generate_series(1, 10) g
			; create table {s2}.elsewhere (id int)`,
		steps: `1> begin; insert into {s2}.elsewhere values (1)
			@capture
			@slot
			alter table t alter v type varchar(20); alter table t alter id type bigint; insert into t values (5000000000, 'large'); alter table u rename v to w; alter table u add column v text; truncate u; insert into u values (1, 'w', 'v')
			1> commit
			@streaming
			update u set id = id + 100 where id < 3`,
	},
	{
		name: "what is published changes while the slot is made", from: 15,
		setup: `create table t (id int primary key, v text); create table u (id int primary key, v text)
			; insert into t select g, 'a' from generate_series(1, 10) g; insert into u select g, 'a' from generate_series(1, 10) g
			; create table {s2}.elsewhere (id int)`,
		steps: `1> begin; insert into {s2}.elsewhere values (1)
			@capture
			@slot
			alter publication {pub} set table t (id), u, beside, {wm}; alter table t add column n int; alter publication {pub} set table t, u, beside, {wm}; insert into t values (11, 'b', 5); insert into u values (11, 'b')
			1> commit
			@streaming
			update u set id = id + 100 where id < 3`,
	},
	{
		name: "the watermarks table leaves the publication under a backfill", short: true,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g`,
		steps: `@capture
			@rows 2000
			alter publication {pub} drop table {wm}
			@say A watermark has not come through the stream, and never will: the watermarks table \S+ is not in the publication
			update t set v = 'b' where id % 3 = 0
			@rows 8000
			alter publication {pub} add table {wm}
			@streaming
			update t set v = 'c' where id % 7 = 0`,
		silent: `could not|no longer captured`,
	},
	{
		name: "the publication has nothing but one table for three seconds, under a backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g;
			create publication {pub} for table t, beside, {wm} with (publish_via_partition_root = true)`,
		steps: `@capture
			@rows 2000
			alter publication {pub} set table t
			update t set v = 'b' where id % 3 = 0
			insert into beside values (-1)
			select pg_sleep(3)
			alter publication {pub} add table {wm}, beside
			@streaming
			update t set v = 'c' where id % 7 = 0`,
		say: `A watermark has not come|beside was taken out of publication`,
	},
	{
		name: "the watermarks table becomes unlogged under a backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g;
			create publication {pub} for all tables with (publish_via_partition_root = true)`,
		steps: `@capture
			@rows 2000
			alter table {wm} set unlogged
			@say A watermark has not come through the stream, and never will: the watermarks table \S+ is unlogged
			update t set v = 'b' where id % 3 = 0
			@rows 8000
			alter table {wm} set logged
			@streaming`,
	},
	{
		name: "a trigger swallows watermarks under a backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g;
			create function swallow() returns trigger language plpgsql as 'begin return null; end'`,
		steps: `@capture
			@rows 2000
			create trigger s before insert or update on {wm} for each row execute procedure swallow()
			@say A watermark has not come through the stream, and never will: what is written .* its trigger "s" may drop or change it
			update t set v = 'b' where id % 3 = 0
			@rows 8000
			drop trigger s on {wm}
			@streaming`,
	},
	{
		name:  "out of the publication and in again in the middle of a backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g`,
		steps: `@capture
			@rows 1000
			alter publication {pub} drop table t
			update t set v = 'b' where id % 100 = 3
			alter publication {pub} add table t
			@look`,
	},
	{
		name: "unlogged in the middle of a backfill", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 20000) g
			; create publication {pub} for tables in schema {s}, table {wm}`,
		steps: `@capture
			@rows 1000
			alter table t set unlogged
			update t set v = 'b' where id % 100 = 3
			alter table t set logged
			@look`,
	},
	{
		name:  "made anew, and the publication sends inserts only for a moment",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `drop table t; create table t (id int primary key, v text); alter publication {pub} add table t; insert into t select g, 'n' from generate_series(1, 10) g
			@rows 20
			alter publication {pub} set (publish = 'insert, delete')
			update t set v = 'b' where id < 5
			alter publication {pub} set (publish = 'insert, update, delete, truncate')`,
	},
	{
		name:  "rewritten in place, without long values",
		setup: `create table t (id int primary key, n int); insert into t select g, g from generate_series(1, 10) g`,
		steps: `vacuum full t
			update t set n = 100 where id = 3
			@look
			cluster t using t_pkey
			@look`,
		silent: `backfilled`,
	},
	{
		name:  "rewritten in place",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `vacuum full t
			update t set v = 'b' where id = 3
			@look`,
		silent: `backfilled`,
	},
	{
		name:  "harmless changes",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `grant select on t to public
			create index on t (v)
			analyze t
			comment on table t is 'a table'
			create table unbound (id int primary key); alter publication {pub} add table unbound
			@look
			update t set v = 'c'
			@look`,
		silent: `backfilled|no longer captured`,
	},
	{
		name: "tables that inherit",
		setup: `create table metrics (id int primary key, v text)
			; create table bound_1 (primary key (id)) inherits (metrics); insert into bound_1 values (7, 'seven')
			; insert into metrics values (5, 'own')
			; create publication {pub} for table only metrics, only bound_1, only beside, only {wm}`,
		steps: `create table chunk_1 (primary key (id)) inherits (metrics); insert into chunk_1 values (1, 'one')
			@capture
			@say ^1 table inherits from \S*metrics \(\S*chunk_1\)
			@streaming
			insert into metrics values (6, 'own')
			@look
			create table chunk_2 (primary key (id)) inherits (chunk_1)
			@look
			@say ^2 tables inherit from \S*metrics \(\S*chunk_1, \S*chunk_2\)
			@look`,
		say: `inherits from`,
	},
	{
		name: "partitions with a unique index for a key", from: 11,
		setup: `create table p (id int not null, v text) partition by range (id)
			; create table p1 partition of p for values from (0) to (100); create table p2 partition of p for values from (100) to (200)
			; create unique index p_id on p (id)
			; alter table p1 replica identity using index p1_id_idx; alter table p2 replica identity full
			; insert into p select g, 'a' from generate_series(1, 150) g`,
		steps: `update p set v = 'b' where id % 7 = 0
			delete from p where id % 10 = 3
			update p set id = id + 65, v = 'moved' where id between 90 and 99
			insert into p values (3, 'again'), (103, 'again')
			create table p3 (id int not null, v text); create unique index on p3 (id); alter table p3 replica identity full; insert into p3 values (201, 'x')
			alter table p attach partition p3 for values from (200) to (300)
			@look
			update p set v = 'c' where id = 201`,
		silent: `without a key|keyless`,
	},
	{
		name: "a keyless table leaves the publication", short: true,
		setup: `create table t (id int, v text); insert into t values (1, 'a')`,
		steps: `alter publication {pub} drop table t
			@say \.t is no longer captured: publication \S+ does not have it any more; run ALTER PUBLICATION \S+ ADD TABLE ONLY \S+; \(the server rejects`,
		parked: `t`,
	},
	{
		name: "a keyless table is not published by the capture", short: true,
		setup: `create publication {pub} for table beside, {wm}; alter publication {pub} owner to {role}
			; create table t (id int, v text); alter table t owner to {role}`,
		refuse: `\.t has no replica identity: once it is in the publication`,
	},
	{
		name: "a column is added while the slot is made", short: true, live: true,
		setup: `create table x (id serial primary key, a int); insert into x (a) values (0)`,
		steps: `create table elsewhere (id int)
			1> begin; insert into elsewhere values (1)
			@capture
			@slot
			alter table x add column c text; insert into x (a, c) values (1, 'must not be lost')
			1> commit
			@streaming`,
	},
	{
		name: "replaced while the slot is made", live: true,
		setup: `create table x (id serial primary key, a int); insert into x (a) select g from generate_series(1, 1000) g
			; create table n (id int, a text); alter table n replica identity full; insert into n select g, 'n' from generate_series(1, 1000) g
			; create table k (id int primary key, a int); insert into k select g, g from generate_series(1, 1000) g
			; create table r (id int primary key, a text); insert into r select g, g from generate_series(1, 1000) g`,
		steps: `create table elsewhere (id int)
			1> begin; insert into elsewhere values (1)
			@capture
			@slot
			alter table x rename to x_old; create table x (id bigint primary key, a text, b text); insert into x select g, 'new', 'b' from generate_series(1, 700) g; alter publication {pub} add table x
			truncate n; insert into n select g, 'm' from generate_series(1, 700) g
			drop table k; create table k (a int, id int primary key); insert into k select g, -g from generate_series(1, 700) g; alter publication {pub} add table k
			alter table r alter column a type bigint using a::bigint; alter table r rename column a to b; alter table r drop column b; alter table r add column b text default 'b'
			1> commit
			@streaming`,
	},
	{
		name: "the publication's filter and columns change while the slot is made", from: 15, live: true,
		setup: `create table x (id int primary key, a int, b int); insert into x select g, g, g from generate_series(1, 1000) g
			; create table f (id int primary key, a int); insert into f select g, g from generate_series(1, 1000) g
			; create publication {pub} for table {wm}, beside, x (id, a), f where (id > 500)`,
		steps: `create table elsewhere (id int)
			1> begin; insert into elsewhere values (1)
			@capture
			@slot
			alter publication {pub} set table {wm}, beside, x, f
			1> commit
			@streaming`,
	},
	{
		name: "altered while its backfill waits for a writer", live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 1000) g
			; create table y (id int primary key, a int); insert into y select g, g from generate_series(1, 1000) g`,
		steps: `1> begin; insert into x values (2001, 1)
			alter publication {pub} drop table x; alter publication {pub} add table x
			@say Backfill of \S+x waits for 1 open transactions
			1> commit
			alter table x add column c text; update x set c = 'c'
			alter table y rename to y_old; create table y (id int primary key, a text); insert into y values (1, 'of another'); alter publication {pub} add table y
			@streaming
			@look`,
		say:    `y is there anew`,
		ghosts: true,
	},
	{
		name: "altered while the capture of its backfill is stopped", live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 20000) g`,
		steps: `@capture
			@rows 1000
			@stop
			alter table x rename column a to b; alter table x add column c int generated always as identity; update x set b = -b
			@start
			@streaming`,
	},
	{
		name: "its key is dropped amid its backfill", live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 20000) g`,
		steps: `@capture
			@rows 1000
			alter table x replica identity full; alter table x drop constraint x_pkey; create index on x (id)
			update x set a = -a where id > 10000
			@streaming`,
	},
	{
		name: "row-level security comes amid its backfill", short: true, live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 100000) g; select '{role}'`,
		steps: `@capture
			@rows 2000
			alter table x enable row level security
			@say x is no longer captured: row-level security came, or changed.*ALTER ROLE {role} BYPASSRLS
			@look
			@sync
			alter role {role} bypassrls
			@say x is there anew: it is backfilled
			@streaming`,
	},
	{
		name: "row-level security that comes amid a backfill stays, also over a restart", live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 100000) g; select '{role}'`,
		steps: `@capture
			@rows 2000
			create policy p on x using (id % 2 = 0); alter table x enable row level security
			@say x is no longer captured: row-level security
			@look
			@stop
			@start
			@say x is no longer captured: row-level security
			@look
			@look`,
		silent: `x is there anew`,
		parked: `x`,
	},
	{
		name: "row-level security that was there, then other policies, then none", live: true,
		setup: `create table x (id int primary key, a int); insert into x select g, g from generate_series(1, 100000) g
			; create policy p on x using (id <= 25000); alter table x enable row level security
			; create table y (id int primary key, a int); insert into y select g, g from generate_series(1, 100000) g
			; create policy p on y using (id <= 25000); alter table y enable row level security; select '{role}'`,
		steps: `@capture
			@rows 4000
			create policy q on x using (id > 40000)
			alter table y disable row level security
			@say x is no longer captured: row-level security
			@streaming`,
		say:    `hides no rows of s_\S+\.y any more: its backfill starts again`,
		parked: `x`,
	},
	{
		name: "row-level security of a partition read by itself", from: 15, live: true,
		setup: `create table x (id int, a int) partition by range (id); alter table x replica identity full
			; create table x1 partition of x for values from (0) to (10000); create table x2 partition of x for values from (10000) to (20000)
			; alter table x1 replica identity full; alter table x2 replica identity full
			; insert into x select g, g from generate_series(1, 19999) g; select '{role}'`,
		steps: `@capture
			@rows 2000
			alter table x2 enable row level security; alter table x1 enable row level security
			@streaming`,
		say: `Row-level security is active on a partition of`,
	},
	{
		name: "row-level security comes to a table whose rows are read again", live: true,
		setup: `create table x (id int primary key, v text); alter table x alter v set storage external
			; insert into x select g, repeat(g::text, 4000) from generate_series(1, 10) g; select '{role}'`,
		steps: `alter table x enable row level security; update x set id = 101 where id = 1
			@say x is no longer captured: row-level security
			@look
			@sync
			alter role {role} bypassrls
			@say x is there anew
			@streaming`,
	},
	{
		name: "rows that row-level security hid from the start are read again", live: true,
		setup: `create table x (id int primary key, v text); alter table x alter v set storage external
			; insert into x select g, repeat(g::text, 4000) from generate_series(1, 10) g
			; create policy p on x using (id <= 5); alter table x enable row level security; select '{role}'`,
		steps: `update x set id = 101 where id = 7
			@say Row-level security hides a row of \S+x .*BYPASSRLS`,
		silent: `no longer captured`,
		parked: `x`,
	},
	{
		name: "a column that is read again may not be read any more", live: true,
		setup: `create table x (id int primary key, v text); alter table x alter v set storage external
			; insert into x select g, repeat(g::text, 4000) from generate_series(1, 10) g; select '{role}'`,
		steps: `revoke pg_read_all_data from {role}; revoke select on x from {role}; grant select (id) on x to {role}
			update x set id = 101 where id = 7
			@say x is no longer captured: .*GRANT SELECT \("v"\) ON
			@sync
			grant select on x to {role}
			@say x is there anew
			@streaming`,
	},
	{
		name: "policies that fail", live: true,
		setup: `create table orders (id int primary key, tenant int); insert into orders values (1, 1)
			; alter table orders enable row level security; create policy p on orders using (tenant = current_setting('app.tenant')::int); select '{role}'`,
		refuse: `orders: row-level security is active on it.*ALTER ROLE \S+ BYPASSRLS`,
	},
	{
		name: "policies that call what the role may not", live: true,
		setup: `create function own(int) returns boolean language sql volatile as 'select true'; revoke execute on function own from public
			; create table orders (id int primary key, tenant int); insert into orders values (1, 1)
			; alter table orders enable row level security; create policy p on orders using (own(tenant)); select '{role}'`,
		refuse: `orders: row-level security is active on it.*ALTER ROLE \S+ BYPASSRLS`,
	},
	{
		name: "row_security is off for the role", live: true,
		setup: `create table orders (id int primary key, tenant int); insert into orders values (1, 1)
			; alter table orders enable row level security; alter role {role} set row_security = off`,
		refuse: `orders: row-level security is active on it.*ALTER ROLE \S+ BYPASSRLS`,
	},
	{
		name: "policies begin to fail amid a backfill", live: true,
		setup: `create table x (id int primary key, tenant int); insert into x select g, g from generate_series(1, 100000) g
			; create policy p on x using (true); alter table x enable row level security; select '{role}'`,
		steps: `@capture
			@rows 2000
			alter policy p on x using (tenant > current_setting('app.tenant')::int)
			@say x is no longer captured: .*BYPASSRLS
			@look
			@look
			alter role {role} bypassrls
			@say x is there anew
			@streaming`,
	},
	{
		name: "rights narrow amid a backfill", live: true,
		setup: `create table x (id int primary key, a int, b int); insert into x select g, g, g from generate_series(1, 100000) g; select '{role}'`,
		steps: `@capture
			@rows 2000
			revoke pg_read_all_data from {role}; revoke select on x from {role}; grant select (id, a) on x to {role}
			@say x is no longer captured: .*GRANT SELECT \("b"\) ON
			@look
			@look
			grant select (b) on x to {role}
			@say x is there anew
			@streaming`,
	},
	{
		name:  "the watermarks table leaves the publication in mid-backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g`,
		steps: `@capture
			@rows 2000
			alter publication {pub} drop table {wm}
			@rows 2500
			select pg_sleep(2)
			alter publication {pub} add table {wm}
			@streaming`,
	},
	{
		name:  "the watermarks table is truncated and its row deleted in mid-backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 30000) g`,
		steps: `@capture
			@rows 2000
			truncate {wm}
			@rows 4000
			delete from {wm}
			@streaming`,
	},
	{
		name:  "unlogged watermarks",
		setup: `create table t (id int primary key); create publication {pub} for table t, beside; alter table {wm} set unlogged`, refuse: `(?i)unlogged`,
	},
	{
		name: "filtered watermarks", from: 15,
		setup: `create table t (id int primary key);
			create publication {pub} for table {wm} where (slot = 'another'), t, beside`, refuse: `(?i)row filter`,
	},
	{
		name: "watermarks that a trigger swallows",
		setup: `create table t (id int primary key);
			create function nothing() returns trigger language plpgsql as 'begin return null; end';
			create trigger swallow before insert or update on {wm} for each row execute procedure nothing()`, refuse: `(?i)trigger`,
	},
	{
		name: "a corrupt value in one table",
		setup: `create type mood as enum ('good', 'gone'); create table t (id int primary key, v mood);
			insert into t select g, case g when 7 then 'gone' else 'good' end::mood from generate_series(1, 20) g;
			delete from pg_enum where enumtypid = 'mood'::regtype and enumlabel = 'gone'`,
		steps: `@capture
			@say (?i)backfill of \S+\.t .*invalid internal value for enum`,
		parked: "t",
	},
	{
		name:  "set table to others and back",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g; create table u (id int primary key)`,
		steps: `alter publication {pub} set table {wm}, beside, u
			update t set v = 'b'; delete from t where id = 3
			alter publication {pub} set table {wm}, beside, u, t`,
		ghosts: true, say: `t \S*.*backfilled`,
	},
	{
		name: "dropped and made anew in one transaction", from: 13, to: 17, live: true,
		advanced: map[string]any{"on_slot_loss": "backfill"},
		setup:    `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps:    `begin; drop publication {pub}; update t set v = 'b'; create publication {pub} for table {wm}, beside, t with (publish_via_partition_root = true); commit`,
		ghosts:   true,
	},
	{
		name: "truncate published no more", from: 11,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `alter publication {pub} set (publish = 'insert, update, delete')
			@look
			truncate t
			insert into t values (100, 'x')
			@look`,
		ghosts: true,
	},
	{
		name:  "harmless DDL of many kinds",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `create function f() returns trigger language plpgsql as 'begin return new; end'
			create trigger tr before update on t for each row execute procedure f()
			alter table t alter v set default 'z'
			alter table t add check (id > 0)
			alter table t alter v set statistics 200
			alter table t set (fillfactor = 70)
			alter table t cluster on t_pkey
			cluster t
			create index concurrently on t (v)
			alter table t replica identity full
			update t set v = 'b' where id = 2
			alter table t replica identity default
			update t set v = 'c' where id = 2
			@look
			alter table t add column w int
			insert into t values (50, 'x', 1)
			@look`,
		silent: `backfilled|no longer captured`,
	},
	{
		name: "a partition is moved between roots", from: 13,
		setup: `create table p (id int primary key, v text) partition by range (id); create table q (id int primary key, v text) partition by range (id);
			create table p1 partition of p for values from (0) to (100); insert into p select g, 'a' from generate_series(1, 10) g`,
		steps: `alter table p detach partition p1
			update p1 set v = 'b'
			alter table q attach partition p1 for values from (0) to (100)
			update q set v = 'c' where id < 5
			@look`,
		ghosts: true,
	},
	{
		name: "rights revoked in mid-backfill and given back",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g;
			comment on schema {s} is 'of {role}'; revoke pg_read_all_data from {role}; grant select on t to {role}; grant select on beside to {role}`,
		from: 14,
		steps: `@capture
			@rows 3000
			revoke select on t from {role}
			@say (?i)GRANT SELECT
			grant select on t to {role}
			@look
			@streaming`,
	},
	{
		name: "a column revoked in mid-backfill", from: 14,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g;
			comment on schema {s} is 'of {role}'; revoke pg_read_all_data from {role}; grant select on t to {role}; grant select on beside to {role}`,
		steps: `@capture
			@rows 3000
			revoke select on t from {role}; grant select (id) on t to {role}
			@say (?i)GRANT SELECT`,
		parked: "t",
	},
	{
		name: "policies change under a backfill that began under row-level security", from: 14,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g;
			alter table t enable row level security; create policy p on t using (true); comment on schema {s} is 'of {role}'`,
		steps: `@capture
			@rows 3000
			alter policy p on t using (id < 10)
			@say (?i)no longer captured.*BYPASSRLS`,
		parked: "t",
	},
	{
		name: "row-level security comes and the role is given BYPASSRLS", from: 14,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g;
			comment on schema {s} is 'of {role}'`,
		steps: `@capture
			@rows 3000
			alter table t enable row level security
			@say (?i)no longer captured.*BYPASSRLS
			@look
			alter role {role} bypassrls
			@look
			@streaming`,
	},
	{
		name: "row-level security on an active table with wide values reread", from: 14,
		setup: `create table t (id int primary key, v text, n int); alter table t alter v set storage external;
			insert into t select g, repeat(md5(g::text), 200), 0 from generate_series(1, 100) g; comment on schema {s} is 'of {role}'`,
		steps: `@capture
			@streaming
			alter table t enable row level security
			update t set id = id + 1000, n = 1 where id = 5
			@look`,
		parked: "t",
	},
	{
		name:  "a column retyped while the slot is made",
		setup: `create table t (id serial primary key, a int); insert into t (a) values (7); create table elsewhere (id int primary key)`,
		steps: `1> begin; insert into elsewhere values (1)
			@capture
			@slot
			alter table t alter a type text using 'x' || a
			1> commit
			@streaming`,
	},
	{
		name:  "truncated and filled while the slot is made",
		setup: `create table t (id serial primary key, a int); insert into t (a) select g from generate_series(1, 100) g; create table elsewhere (id int primary key)`,
		steps: `1> begin; insert into elsewhere values (1)
			@capture
			@slot
			truncate t
			insert into t (a) values (7)
			1> commit
			@streaming`,
	},
	{
		name:  "a column dropped and renamed while a writer is waited for",
		setup: `create table t (id serial primary key, a int, b int); insert into t (a, b) values (1, 2); create table u (id int primary key)`,
		steps: `1> begin; insert into u values (1)
			@capture
			@slot
			alter table t drop column a
			alter table t rename b to a
			insert into t (a) values (9)
			1> commit
			@streaming`,
	},
	{
		name:  "the watermarks table is dropped and made anew in mid-backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g`,
		steps: `@capture
			@rows 2000
			drop table {wm}
			select pg_sleep(1)
			create table {wm} (slot text primary key, watermark text); grant all on {wm} to public; alter publication {pub} add table {wm}
			@streaming`,
	},
	{
		name: "a filter on the watermarks table in mid-backfill", from: 15,
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g`,
		steps: `@capture
			@rows 2000
			alter publication {pub} set table beside, t, {wm} where (slot = 'x')
			@rows 4000
			@streaming
			alter publication {pub} set table beside, t, {wm}`,
	},
	{
		name: "a trigger swallows watermarks in mid-backfill",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g;
			create function nothing() returns trigger language plpgsql as 'begin return null; end'`,
		steps: `@capture
			@rows 2000
			create trigger swallow before insert or update on {wm} for each row execute procedure nothing()
			@rows 4000
			@streaming
			drop trigger swallow on {wm}`,
	},
	{
		name:  "the primary key goes and comes while it is captured",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 10) g`,
		steps: `begin; alter table t drop constraint t_pkey; alter table t add primary key (id); commit
			update t set v = 'b' where id = 2
			@look`,
	},
	{
		name:  "replica identity by another index for a moment",
		setup: `create table t (id int primary key, k int not null, v text); create unique index k on t (k); insert into t select g, g, 'a' from generate_series(1, 10) g`,
		steps: `alter table t replica identity using index k
			update t set v = 'b', id = id + 100 where id = 2
			alter table t replica identity default
			update t set v = 'c' where id = 3
			@look`,
		ghosts: true,
	},
	{
		name:  "a keyless table is bound and written to",
		setup: `create table k (v text); insert into k select g::text from generate_series(1, 10) g; create publication {pub} for table {wm}, beside, k`,
		steps: `insert into k values ('x')
			@sync`,
	},
	{
		name:  "the publication sends inserts only amid a backfill, which hides its watermarks",
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g`,
		steps: `@capture
			@rows 2000
			alter publication {pub} set (publish = 'insert')
			@say no longer captured.*SET \(publish
			delete from t where id > 59990
			alter publication {pub} set (publish = 'insert, update, delete, truncate')
			@look
			@streaming`,
		ghosts: true,
	},
	{
		name: "the publication is gone amid a backfill and made anew", to: 17, advanced: map[string]any{"on_slot_loss": "backfill"},
		setup: `create table t (id int primary key, v text); insert into t select g, 'a' from generate_series(1, 60000) g`,
		steps: `@capture
			@rows 2000
			drop publication {pub}
			update t set v = 'b' where id < 100
			create publication {pub} for table {wm}, beside, t with (publish_via_partition_root = true)
			@streaming`,
		ghosts: true, from: 13,
	},
	{
		name: "a row that must be read again is locked", short: true,
		setup: `create table t (id int primary key, big text); alter table t alter big set storage external
			; insert into t select g, repeat('x', 5000) || g from generate_series(1, 10) g`,
		steps: `1> begin
			1> update t set id = 1001 where id = 1
			2> begin
			2& lock table t
			1> commit
			@say t is captured anew: an update of the row .*1001.* in transaction \d+ cannot be told: .*55P03.*pg_stat_activity
			@sync
			2> rollback
			@say The backfill of \S*t goes on`,
	},
	{
		name: "a row that must be read again is not found in time",
		setup: `create table t (id int primary key, big text); alter table t alter big set storage external
			; insert into t select g, repeat('x', 5000) || g from generate_series(1, 10) g`,
		advanced: map[string]any{"statement_timeout": "500ms"},
		steps: `1> begin
			1> update t set id = 1001 where id = 1
			2> begin
			2& lock table t
			1> commit
			@say t is captured anew: an update of the row .*1001.* in transaction \d+ cannot be told: .*57014.*create an index on the key \("?id"?\)
			@sync
			2> rollback
			@say The backfill of \S*t goes on`,
	},
}

// TestSituations runs them, those without waits of their own also while the capture is stopped: all of them under -long, with
// TEST_SITUATIONS=all (as make test-matrix has it) and where -run names some; else those that are marked short and, but for
// -short, a quarter of the others, drawn anew each time.
func TestSituations(t *testing.T) {
	all := *longTests || os.Getenv("TEST_SITUATIONS") == "all" || strings.Contains(flag.Lookup("test.run").Value.String(), "/")
	run := func(name string, s *situation, short bool) {
		t.Run(name, func(t *testing.T) {
			if !all && !short && (testing.Short() || rand.IntN(4) > 0) {
				t.Skip("not in this form of the campaign: make test-matrix runs all")
			}
			t.Parallel()
			s.run(t, nil)
		})
	}
	for i := range situations {
		s := &situations[i]
		run(s.title(), s, s.short)
		if !s.asides() {
			stopped := *s
			stopped.steps = "@stop\n" + s.steps + "\n@start\n@streaming"
			run(s.title()+",-stopped", &stopped, false)
		}
	}
}

// soakSituations runs some situations, whose captures are killed between the steps.
func soakSituations(t *testing.T, seed uint64, n int) (kills int) {
	random := rand.New(rand.NewPCG(seed, 6))
	for range n {
		s := &situations[random.IntN(len(situations))]
		if s.refuse != "" || s.end != "" {
			continue
		}
		t.Run(s.title(), func(t *testing.T) { kills += s.run(t, random) })
	}
	return kills
}

func (s *situation) title() string { return strings.ReplaceAll(s.name, " ", "-") }

// asides reports whether the situation is about more than what happens to the database.
func (s *situation) asides() bool {
	return s.live || s.refuse != "" || s.end != "" || regexp.MustCompile(`(?m)^\s*@(?:capture|streaming|look|sync|stop|start|say|slot|rows)\b`).MatchString(s.steps)
}

// situationRun is a situation under way.
type situationRun struct {
	*testDB
	of       *situation
	schema   string
	role     string
	capture  *testRuntime
	bound    []tableName // the healthy one last
	sessions map[string]*situationSession
	marks    int  // rows of the healthy table
	said     int  // logs that @say has looked at
	chaos    bool // the capture is killed between the steps
	names    *strings.Replacer
}

// situationSession is a session called by a number.
type situationSession struct {
	conn    *pgx.Conn
	pending chan error // of the statement that N& sent, nil without one
}

// besideTable is the healthy one.
const besideTable = "beside"

// run runs the situation. With chaos the capture is killed between the steps now and then, and started again from what it had
// committed; it returns how often.
func (s *situation) run(t *testing.T, chaos *rand.Rand) (kills int) {
	db := newTestDB(t)
	if major := db.version() / 10000; s.from > major || s.to != 0 && s.to < major {
		t.Skipf("not on PostgreSQL %d", major)
	}
	r := &situationRun{
		testDB: db, of: s, schema: db.createSchema("s"), role: *testCaptureUser, sessions: make(map[string]*situationSession), chaos: chaos != nil,
	}
	r.prepare()
	if s.refuse != "" {
		if err := r.bind(); err == nil || !regexp.MustCompile(s.refuse).MatchString(err.Error()) {
			t.Fatalf("validation should refuse it with %s: %v", s.refuse, err)
		}
		return 0
	}
	if !strings.Contains(s.steps, "@capture") {
		r.step("@capture")
		r.step("@streaming")
	}
	var refused error // of a start
	for line := range strings.Lines(s.steps) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if refused != nil { // perhaps the last step has put it right, or a later one will
			if refused = r.capture.tryStart(); refused != nil && line[0] == '@' {
				continue
			}
		}
		r.step(line)
		if chaos != nil && chaos.IntN(4) == 0 && r.capture != nil && r.capture.current() != nil {
			r.capture.kill()
			_ = r.capture.wait()
			refused = r.capture.tryStart()
			kills++
		}
	}
	if refused != nil {
		if err := r.capture.tryStart(); err != nil {
			t.Fatal(err)
		}
	}
	if s.end != "" {
		if err := r.capture.wait(); err == nil || !regexp.MustCompile(s.end).MatchString(err.Error()) {
			t.Fatalf("the session should end with %s: %v", s.end, err)
		}
	} else {
		r.step("@sync")
	}
	r.judge(chaos == nil)
	if s.end == "" {
		r.step("@stop")
	}
	return kills
}

// prepare makes what the situation needs.
func (r *situationRun) prepare() {
	named := []string{
		"{s}", quoteIdent(r.schema), "{pub}", quoteIdent(r.publication), "{slot}", r.slot, "{wm}", quoteTable(r.watermarks),
		"{app}", r.testDB.name("app"),
	}
	script := r.of.setup
	if strings.Contains(script+r.of.steps, "{s2}") {
		named = append(named, "{s2}", quoteIdent(r.createSchema("s2")))
	}
	if strings.Contains(script+r.of.steps, "{app}") {
		r.makeRole(r.testDB.name("app"), "NOLOGIN")
	}
	if strings.Contains(script+r.of.steps, "{role}") {
		r.role = r.testDB.name("role")
		r.makeRole(r.role, "LOGIN REPLICATION PASSWORD "+quoteLiteral(*testCapturePassword))
		if r.version() >= 140000 {
			r.exec("GRANT pg_read_all_data TO " + quoteIdent(r.role))
		}
		r.exec(fmt.Sprintf("GRANT ALL PRIVILEGES ON %s TO %s", quoteTable(r.watermarks), quoteIdent(r.role)))
		testSchema.Lock() // the server refuses two grants on one schema at a time
		_, err := r.control.Exec(r.ctx, fmt.Sprintf("GRANT USAGE ON SCHEMA %s, test TO %s", quoteIdent(r.schema), quoteIdent(r.role)))
		testSchema.Unlock()
		if err != nil {
			r.Fatal(err)
		}
	}
	r.names = strings.NewReplacer(append(named, "{role}", quoteIdent(r.role))...)
	path := "SET search_path = " + quoteIdent(r.schema) + ", public"
	r.exec(path)
	r.exec(fmt.Sprintf("ALTER DEFAULT PRIVILEGES IN SCHEMA %s GRANT SELECT ON TABLES TO %s", quoteIdent(r.schema), quoteIdent(r.role)))
	r.exec("CREATE TABLE " + besideTable + " (id int PRIMARY KEY)")
	own := regexp.MustCompile(`(?i)create publication \{pub\}`).MatchString(script)
	if own {
		r.exec("DROP PUBLICATION " + quoteIdent(r.publication))
	}
	r.script(r.names.Replace(script))
	const sqlTables = `SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
		ORDER BY relname = $2, relname`
	for _, row := range r.query(sqlTables, quoteIdent(r.schema), besideTable) {
		r.bound = append(r.bound, tableName{r.schema, row[0]})
	}
	if !own {
		for _, table := range r.bound { // what inherits is bound itself
			r.exec(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE ONLY %s", quoteIdent(r.publication), quoteTable(table)))
		}
	}
}

// makeRole makes a role that goes with the test.
func (r *situationRun) makeRole(name, options string) {
	r.exec("CREATE ROLE " + quoteIdent(name) + " " + options)
	r.Cleanup(func() { // ahead of the tables it may own, and of testDB's control session
		testSchema.Lock()
		defer testSchema.Unlock()
		_, _ = r.control.Exec(r.ctx, "DROP OWNED BY "+quoteIdent(name)+" CASCADE")
		if _, err := r.control.Exec(r.ctx, "DROP ROLE "+quoteIdent(name)); err != nil {
			r.Logf("cleanup: %v", err)
		}
	})
}

// bind discovers the tables and validates.
func (r *situationRun) bind() error {
	config := edit(r, r.config(), map[string]any{"user": r.role})
	advanced := map[string]any{"backfill_chunk_size": 500}
	maps.Copy(advanced, r.of.advanced)
	var whole map[string]any
	if err := json.Unmarshal(config, &whole); err != nil {
		r.Fatal(err)
	}
	maps.Copy(whole["advanced"].(map[string]any), advanced)
	r.capture = newTestRuntime(r, runtimeOptions{
		config: whole, env: []string{testHurryVariable + "=500ms"}, logLevel: "debug",
	})
	discovered, err := r.capture.driver.discover(r.ctx)
	if err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	found, err := previewBindings(discovered.Bindings, &previewOptions{})
	if err != nil {
		return err
	}
	var wanted []runtimeBinding
	for _, table := range r.bound {
		i := slices.IndexFunc(found, func(f runtimeBinding) bool {
			name, _, err := tableOfResource(f.resource)
			return err == nil && name == table
		})
		if i >= 0 {
			wanted = append(wanted, found[i])
			continue
		}
		// Not proposed; bound all the same, as a task that has it from before does.
		wanted = append(wanted, runtimeBinding{
			resource:   fmt.Appendf(nil, `{"namespace":%q,"stream":%q}`, table.schema, table.name),
			collection: table.name, key: []string{"/id"},
			schema: json.RawMessage(`{"type":"object","properties":{"id":{"type":"integer"}},"required":["id"]}`),
		})
	}
	capture, err := r.capture.driver.validate(r.ctx, wanted, nil)
	if err != nil {
		return err
	}
	r.capture.capture = capture
	for _, table := range r.bound {
		r.capture.names = append(r.capture.names, table.String())
	}
	return nil
}

// step does one step.
func (r *situationRun) step(line string) {
	r.Helper()
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "@capture":
		if err := r.bind(); err != nil {
			r.Fatalf("validate: %v", err)
		}
		r.capture.start()
	case "@start":
		r.capture.start()
	case "@streaming":
		r.capture.waitStreaming()
	case "@stop":
		r.capture.stop()
		if err := r.capture.wait(); err != nil {
			r.Fatalf("the session ended: %v", err)
		}
		r.eventually("the slot to be free", func() bool {
			return r.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND active", r.slot) == "0"
		})
	case "@look":
		// The one under way may have begun before.
		for range 2 {
			looks := r.capture.countLogs(catalogLooked)
			r.capture.waitFor("a look into the catalog", func() bool { return r.capture.countLogsLocked(catalogLooked) > looks })
		}
	case "@sync":
		r.marks++
		r.exec(fmt.Sprintf("INSERT INTO %s.%s VALUES (%d)", quoteIdent(r.schema), besideTable, r.marks))
		want := fmt.Sprintf(`"id":%d}`, r.marks)
		beside := r.bound[len(r.bound)-1].String()
		r.capture.waitFor("the row "+want+" of the healthy table", func() bool {
			return slices.ContainsFunc(r.capture.committed, func(d testDocument) bool {
				return d.table == beside && strings.HasSuffix(d.doc, want)
			})
		})
	case "@say":
		pattern := regexp.MustCompile(r.names.Replace(rest))
		next := 0 // behind the log that matched
		said := func() bool {
			if next == 0 {
				if i := slices.IndexFunc(r.capture.logs[r.said:], func(l connectorLog) bool { return pattern.MatchString(l.message) }); i >= 0 {
					next = r.said + i + 1
				}
			}
			return next > 0
		}
		if r.chaos { // what is said depends on where the capture was killed
			r.capture.waitSome(10*time.Second, said)
			return
		}
		r.capture.waitFor("a log of "+rest, said)
		r.said = next
	case "@slot":
		r.eventually("the slot", func() bool {
			return r.queryValue("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", r.slot) == "1"
		})
	case "@rows":
		var n int
		if _, err := fmt.Sscan(rest, &n); err != nil {
			r.Fatalf("%s: %v", line, err)
		}
		r.capture.waitFor(rest+" documents", func() bool { return len(r.capture.committed) >= n })
	default:
		if match := regexp.MustCompile(`^(\d+)([>&]) (.*)$`).FindStringSubmatch(line); match != nil {
			r.session(match[1]).do(r, match[3], match[2] == ">")
			return
		}
		r.script(r.names.Replace(line))
	}
}

func (r *situationRun) session(name string) *situationSession {
	s := r.sessions[name]
	if s == nil {
		s = &situationSession{conn: testConnect(r.TB, *testControlUser, *testControlPassword)}
		r.sessions[name] = s
		s.do(r, "SET search_path = {s}, public", true)
	}
	return s
}

// do runs SQL behind what the session was sent before.
func (s *situationSession) do(r *situationRun, sql string, wait bool) {
	r.Helper()
	if s.pending != nil {
		if err := <-s.pending; err != nil {
			r.Fatal(err)
		}
	}
	s.pending = make(chan error, 1)
	sql = r.names.Replace(sql)
	go func() {
		_, err := s.conn.PgConn().Exec(r.ctx, sql).ReadAll()
		if err != nil {
			err = fmt.Errorf("%s: %w", sql, err)
		}
		s.pending <- err
	}()
	if wait {
		if err := <-s.pending; err != nil {
			r.Fatal(err)
		}
		s.pending = nil
		return
	}
	const sqlWaits = `SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'`
	r.eventually("session to wait for a lock, or to be done: "+sql, func() bool {
		return len(s.pending) > 0 || r.queryValue(sqlWaits, int(s.conn.PgConn().PID())) == "1"
	})
}

// catalogLooked is logged, at level debug, when the catalog has been read again.
const catalogLooked = "looked at the captured tables"

func (r *testRuntime) countLogs(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.countLogsLocked(text)
}

func (r *testRuntime) countLogsLocked(text string) (n int) {
	for _, log := range r.logs {
		if strings.Contains(log.message, text) {
			n++
		}
	}
	return n
}

// judge waits until the collections equal the tables, and looks at what was said. Which words a capture finds that is killed
// amid the steps depends on where: said is false for those. While such a one is parked, rows may vanish unseen.
func (r *situationRun) judge(said bool) {
	r.Helper()
	var different string
	for deadline := time.Now().Add(waitLimit); ; time.Sleep(50 * time.Millisecond) {
		if different = r.difference(); different == "" || time.Now().After(deadline) || r.of.end != "" {
			break
		}
	}
	if different != "" {
		r.Errorf("the collections are not the tables: %s", different)
	}
	// A log comes another way than documents, and may come behind them.
	for pattern := range strings.Lines(r.of.say) {
		if pattern = strings.TrimSpace(pattern); pattern != "" && said {
			wanted := regexp.MustCompile(r.names.Replace(pattern))
			r.capture.waitSome(waitLimit, func() bool {
				return slices.ContainsFunc(r.capture.logs, func(l connectorLog) bool { return wanted.MatchString(l.message) })
			})
		}
	}
	logs := r.capture.stderr()
	for _, list := range []struct {
		patterns string
		wanted   bool
	}{{r.of.say, true}, {r.of.silent, false}} {
		for pattern := range strings.Lines(list.patterns) {
			if pattern = strings.TrimSpace(pattern); pattern == "" || !said {
				continue
			}
			if found := regexp.MustCompile(r.names.Replace(pattern)).FindString(logs); (found != "") != list.wanted {
				r.Errorf("logged %q, which should be logged: %t, by the pattern %s", found, list.wanted, pattern)
			}
		}
	}
}

// difference tells the first row that a table and the last documents of its keys disagree about, "" when there is none.
func (r *situationRun) difference() string {
	r.Helper()
	parked := strings.Fields(r.of.parked)
	for _, table := range r.bound {
		if slices.Contains(parked, table.name) {
			continue
		}
		captured := make(map[string]map[string]any)
		keyless := false
		for _, d := range r.capture.documents() {
			if d.table != table.String() {
				continue
			}
			var doc map[string]any
			if err := json.Unmarshal([]byte(d.doc), &doc); err != nil {
				r.Fatalf("%v: %s", err, d.doc)
			}
			op := doc["_meta"].(map[string]any)["op"]
			delete(doc, "_meta")
			key := fmt.Sprint(doc["id"])
			if _, ok := doc["id"]; !ok {
				text, _ := json.Marshal(doc)
				key, keyless = string(text), true
			}
			if op == "d" {
				delete(captured, key)
				continue
			}
			row := captured[key]
			if row == nil || op == "c" {
				row = make(map[string]any)
			}
			maps.Copy(row, doc)
			captured[key] = row
		}
		if exists := r.queryValue("SELECT to_regclass($1) IS NULL", quoteTable(table)); exists == "t" {
			return table.String() + " is gone, and not among those that are not captured in the end"
		}
		seen := 0
		only := ""
		if r.queryValue("SELECT relkind FROM pg_class WHERE oid = $1::regclass", quoteTable(table)) == "r" {
			only = "ONLY "
		}
		for _, row := range r.query("SELECT row_to_json(t) FROM " + only + quoteTable(table) + " t") {
			var want map[string]any
			if err := json.Unmarshal([]byte(row[0]), &want); err != nil {
				r.Fatal(err)
			}
			key := fmt.Sprint(want["id"])
			if keyless {
				text, _ := json.Marshal(want)
				key = string(text)
			}
			have, ok := captured[key]
			if !ok {
				return fmt.Sprintf("%s lacks %s", table, row[0])
			}
			seen++
			for column, value := range want {
				if fmt.Sprint(have[column]) != fmt.Sprint(value) { // one that came later may be absent where it is NULL
					return fmt.Sprintf("%s has %v for %s", table, have, row[0])
				}
			}
		}
		if seen < len(captured) && !r.of.ghosts && !r.chaos && !keyless {
			return fmt.Sprintf("%s has %d rows, the collection %d", table, seen, len(captured))
		}
	}
	return ""
}
