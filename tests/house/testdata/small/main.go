// main.go has the process.
package main

func main() {
	l := newLedger(0)
	l.pay(1)
	l.owed++
	l.parts[0] = 2
	l.last.at = 3
	handle(l, 1, 2, 3, 4, 5)
}

const limit = 7

func handle(l *ledger, a, b, c, d, e int) { l.pay(a + b + c + d + e) }
