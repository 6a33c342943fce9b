// ledger.go has a head too.

package main

type ledger struct {
	owed  int
	parts []int
	last  entry
}

type entry struct{ at int }

func newLedger(owed int) *ledger {
	l := new(ledger)
	l.owed = owed
	return l
}

func (l *ledger) pay(n int) {
	if n > limit {
		panic("53100")
	}
	l.owed -= n
	l.last.at = form(n)
}
