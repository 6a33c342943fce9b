// capture_markers.go owns backfill markers, by which readers of a collection tell the documents that are left behind: those published
// before a BackfillBegin are dropped, and once the BackfillComplete has come, rows that no document has told of since may be
// deleted. They are sent with the feature flag emit_backfill_markers alone.
//
//	… Checkpoint | Begin Checkpoint | chunks and changes, with checkpoints … | Complete Checkpoint | …
//
// Invariant: every row that the table has when its Complete comes has been emitted, whole, behind its Begin. Where that cannot
// be said of a backfill it has no markers, and a status says why. What a repeated Begin would cost is said by its checkpoint:
// bindingMetadata.Begun is stored with the Begin, so that it comes once for each time that the table is captured anew.

package main

import (
	"fmt"
	"slices"
	"strings"

	pf "github.com/estuary/flow/go/protocols/flow"
)

// labelRuntime is the label of a task's shards that chooses its runtime: V1 if it is "false" (spec/platform-2026.md §1).
const labelRuntime = "estuary.dev/flag/enable-runtime-v2"

// runsOnV1 reports whether a task, as it is or was published, is known to run where a session dies of a marker. nil is one that never
// was. Of Validate's requests only lastCapture tells; Apply and Open have the task itself.
func runsOnV1(task *pf.CaptureSpec) bool {
	return task != nil && task.ShardTemplate != nil && task.ShardTemplate.LabelSet.ValueOf(labelRuntime) == "false"
}

// checkMarkers refuses markers for a task that runs where they end the session.
func checkMarkers(s *settings, task *pf.CaptureSpec) error {
	if !s.flags.emitBackfillMarkers || !runsOnV1(task) {
		return nil
	}
	return &userError{msg: "advanced.feature_flags has emit_backfill_markers, but the task runs on the V1 runtime (its shards have " +
		"the label " + labelRuntime + "=false), where a backfill marker ends the session: publish the task with that label set to true " +
		"first, or take emit_backfill_markers out of advanced.feature_flags"}
}

// noteShared has each binding know of another one that writes, or wrote, to its collection.
func noteShared(bindings []*binding, inactive []*pf.CaptureSpec_Binding) {
	writer := make(map[string]string, len(bindings))
	for _, b := range inactive {
		writer[b.Collection.Name.String()] = strings.Join(b.ResourcePath, ".")
	}
	first := make(map[string]*binding, len(bindings))
	for _, b := range bindings {
		b.shares = writer[b.collection]
		if other := first[b.collection]; other != nil {
			b.shares, other.shares = other.name().String(), b.name().String()
		} else {
			first[b.collection] = b
		}
	}
}

// unmarkable tells why no marker may be sent of a binding; "" when they may. A TRUNCATE needs no more than this: behind it the table
// is empty, whichever of its rows are captured.
func (b *binding) unmarkable() string {
	if b.shares != "" {
		return fmt.Sprintf("its collection %s has documents of %s too", b.collection, b.shares)
	}
	return ""
}

// unmarkedScan tells why a backfill of a binding may have no markers; "" when it may: each row of the table is read, and no change
// comes ahead of its row with less than all of its values.
func (c *capture) unmarkedScan(b *binding) string {
	reason := b.unmarkable()
	switch {
	case reason != "":
	case b.resource.mode == modeOnlyChanges:
		reason = "the mode Only Changes reads no rows"
	case c.settings.skipsBackfill(b.name()):
		reason = "advanced.skip_backfills has no rows of it read"
	case c.settings.flags.forceResetCursor != 0:
		reason = "the feature flag force_reset_cursor leaves changes out"
	case c.settings.minBackfillXID != "":
		reason = "advanced.min_backfill_xid leaves rows out"
	case b.resource.filter != "":
		reason = "advanced.additional_backfill_filter leaves rows out"
	case b.table != nil && b.table.rowFilter != "":
		reason = "the publication's row filter leaves rows out, of which the collection may have documents from before it"
	case b.table != nil && b.table.sight != "" && b.table.sight != sightAll:
		reason = "row-level security hides rows"
	case b.resource.mode == modeNormal:
		reason = "in the mode Normal changes come ahead of their rows, and may lack values that only older documents have"
	case b.keyless():
		reason = "without a key a row that moves while they are read may come as an update alone, which may lack values that only older " +
			"documents have"
	}
	return reason
}

// remains says what becomes of the documents of rows that vanished unseen when tables are backfilled again. REQUIRES: there is one.
func (c *capture) remains(bindings ...*binding) string {
	const stay = "Documents of rows that vanished stay in the collection"
	var kinds verdicts
	for _, b := range bindings {
		reason := c.unmarkedScan(b)
		switch marks := c.settings.flags.emitBackfillMarkers; {
		case marks && reason == "":
			kinds.add("Backfill markers have readers of the collection drop the documents of rows that vanished.", b)
		case marks:
			kinds.add(stay+": no backfill markers are sent, as "+reason+".", b)
		case reason == "" && !c.v1:
			kinds.add(stay+" (with the feature flag emit_backfill_markers its readers would drop them).", b)
		default:
			kinds.add(stay+".", b)
		}
	}
	if len(kinds.list) == 1 {
		return kinds.list[0].text
	}
	var texts []string
	for _, kind := range kinds.list {
		texts = append(texts, strings.TrimSpace(subject(kind.bindings, "", ""))+": "+kind.text)
	}
	return strings.Join(texts, " ")
}

// writeMarker writes a marker of a binding, alone between two checkpoints: what came before it ends with the first, and the second has
// the state behind it. REQUIRES: between transactions, no passed fence.
func (c *capture) writeMarker(b *binding, kind markerKind) error {
	if c.out.open {
		if err := c.checkpoint(); err != nil {
			return err
		}
	}
	failpoint("marker.before")
	b.meta.Begun = kind == markerBegin
	b.mark()
	err := c.out.marker(b.index, kind)
	if err == nil {
		failpoint("marker.written")
		err = c.checkpoint()
	}
	if err != nil {
		b.meta.Begun = kind != markerBegin // the next session of the process writes it
		return err
	}
	failpoint("marker.after")
	return nil
}

// beginMarked writes the Begin of those bindings whose backfill is about to start and has none yet.
func (c *capture) beginMarked(starting []*binding) error {
	if !c.settings.flags.emitBackfillMarkers {
		var anew []*binding
		for _, b := range starting {
			if b.anew && !c.onlyStreams(b) {
				anew = append(anew, b)
			}
			b.anew = false
		}
		if len(anew) > 0 {
			c.status("%s backfilled again. %s", subject(anew, "is", "are"), c.remains(anew...))
		}
		return nil
	}
	var begun []*binding
	var unmarked verdicts
	for _, b := range starting {
		if b.meta.First || b.meta.Begun || b.phase != phasePending {
			continue
		}
		if reason := c.unmarkedScan(b); reason != "" {
			unmarked.add(reason, b)
			continue
		}
		if err := c.writeMarker(b, markerBegin); err != nil {
			return err
		}
		begun = append(begun, b)
	}
	c.backlog.mark(begun...)
	for _, v := range unmarked.list {
		c.status("%s captured anew without backfill markers, as %s. Documents of rows that vanished stay in the collection.",
			subject(v.bindings, "is", "are"), v.text)
	}
	if len(begun) > 0 {
		c.status("%s captured anew behind a backfill marker: readers of the collection drop what came before it, and when all rows "+
			"have come, those that vanished.", subject(begun, "is", "are"))
	}
	return nil
}

// completeMarked writes the Complete of those bindings whose rows have all come. REQUIRES: between transactions, no passed fence.
func (c *capture) completeMarked() error {
	told := false
	for _, b := range slices.Clone(c.backlog.marking) {
		if b.meta.Begun && (b.phase != phaseActive || b.scanning()) {
			continue
		}
		c.backlog.unmark(b)
		told = true
		if !b.meta.Begun { // captured anew, parked, truncated
			continue
		}
		if c.voidBegun(b) {
			continue
		}
		if err := c.writeMarker(b, markerComplete); err != nil {
			return err
		}
		c.status("%s has all rows captured anew: a backfill marker has readers of its collection drop those that vanished.", b.name())
	}
	if told {
		c.usual()
	}
	return nil
}

// tellTruncate says what a TRUNCATE comes to for readers of the collection.
func (c *capture) tellTruncate(b *binding) string {
	gone := fmt.Sprintf("%s was truncated: its rows are gone from the source, their documents stay in the collection. ", b.name())
	reason := b.unmarkable()
	switch marks := c.settings.flags.emitBackfillMarkers; {
	case reason != "" && marks && c.settings.onTruncate == "mark":
		return gone + "No backfill markers are sent for it, as " + reason + ". Reset the collection to remove them."
	case marks && c.settings.onTruncate == "mark":
		return fmt.Sprintf("%s was truncated: backfill markers have readers of its collection drop the documents of its rows.", b.name())
	case reason != "" || c.v1:
		return gone + "Reset the collection to remove them, or set advanced.on_truncate to \"backfill\"."
	case marks:
		return gone + "Reset the collection to remove them, or set advanced.on_truncate to \"mark\" or \"backfill\"."
	}
	return gone + "Reset the collection to remove them, or set advanced.on_truncate to \"backfill\" or, with the feature flag " +
		"emit_backfill_markers, to \"mark\"."
}

// Ops under which markers count among what a binding has put out of a transaction (capture_within.go).
const (
	opBegin    = 'B'
	opComplete = 'C'
)

// markTruncate writes both markers at the place of a TRUNCATE, with checkpoints inside of the transaction: documents of before are
// dropped, and what follows is all that there is. That holds amid a backfill, too: what is read behind the TRUNCATE comes behind it, so that one
// that a marker began needs no other end. A session that resumes within the transaction leaves out what was committed: a Begin that came
// again would take what was committed behind the first. REQUIRES: c.changes.from.loc[1] is a place of the first marker.
func (c *capture) markTruncate(b *binding) error {
	c.changes.count()
	for _, kind := range [...]markerKind{markerBegin, markerComplete} {
		if c.out.open {
			if err := c.checkpointWithin(); err != nil {
				return err
			}
		}
		op := byte(opBegin)
		if kind == markerComplete {
			op = opComplete
			b.meta.Begun = false
			b.mark()
		}
		failpoint("truncate.before")
		if !c.captured(b, op) {
			if err := c.out.marker(b.index, kind); err != nil {
				return err
			}
			failpoint("truncate.written")
			if err := c.checkpointWithin(); err != nil {
				return err
			}
			failpoint("truncate.after")
		}
		c.changes.pass()
	}
	return nil
}

// voidBegun has a backfill that began with a marker end without one, where what has changed since asks for that, and says so.
func (c *capture) voidBegun(b *binding) bool {
	reason, missing := c.unmarkedScan(b), true
	if reason == "" && !c.settings.flags.emitBackfillMarkers {
		reason, missing = "the feature flag emit_backfill_markers was taken out", false
	}
	if reason == "" {
		return false
	}
	b.meta.Begun = false
	b.mark()
	c.ledger.owe()
	text := fmt.Sprintf("The backfill of %s, which a backfill marker began, ends without one, as %s: documents of rows that vanished stay "+
		"in the collection.", b.name(), reason)
	if missing {
		text += " Readers that read it from its start drop what came before that marker, and so lack rows that are not read again: undo " +
			"the change and trigger a backfill."
	}
	c.status("%s", text)
	return true
}

// foreignBegun has a backfill that a marker began end without one, where another image has gone on with it: whether that has emitted every
// row, and whole, we do not know.
func (c *capture) foreignBegun(b *binding) {
	b.meta.Begun = false
	b.mark()
	c.status("The backfill of %s, which a backfill marker began, ends without one, as another connector went on with it: documents of rows that "+
		"vanished stay in the collection. Trigger a backfill of it to have them dropped.", b.name())
}

// resumeMarked takes up the backfills that a marker began.
func (c *capture) resumeMarked() {
	for _, b := range c.bindings {
		if b.meta.Begun && !c.voidBegun(b) {
			c.backlog.mark(b)
		}
	}
}
