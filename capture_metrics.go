// capture_metrics.go owns METRICS_ADDRESS: the facts of capture_progress.go for Prometheus. Each scrape looks at the server, at most once
// a second; without an answer of the server, what only it knows is left out.

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
)

// metric is one family of values.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newMetric(kind prometheus.ValueType, name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("source_postgres_"+name, help, labels, nil), kind}
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

var (
	metricTransactions = newMetric(counter, "transactions_total", "Transactions streamed.")
	metricChanges      = newMetric(counter, "changes_total", "Inserts, updates and deletes of captured tables streamed.")
	metricDocuments    = newMetric(counter, "documents_total", "Documents written, those of backfills included.")
	metricWritten      = newMetric(counter, "written_bytes_total", "Bytes written to the runtime.")
	metricCheckpoints  = newMetric(counter, "checkpoints_total", "Checkpoints written.")
	metricChunks       = newMetric(counter, "backfill_chunks_total", "Backfill chunks settled.")
	metricReread       = newMetric(counter, "backfill_chunks_reread_total", "Backfill chunks that had to be read again.")
	metricReconnects   = newMetric(counter, "reconnects_total", "Replication connections that were lost and opened again.")
	metricStreamed     = newMetric(gauge, "streamed_lsn", "Where the stream is, as a number of bytes.")
	metricServer       = newMetric(gauge, "server_lsn", "Where the server's WAL ends, as a number of bytes.")
	metricConfirmed    = newMetric(gauge, "slot_confirmed_lsn", "Up to where the slot has been acknowledged, as a number of bytes.")
	metricBehind       = newMetric(gauge, "behind_bytes", "WAL that has not been streamed.")
	metricLag          = newMetric(gauge, "behind_seconds", "Age of the oldest commit that has not been streamed, at most.")
	metricRetained     = newMetric(gauge, "slot_retained_bytes", "WAL that the server keeps for the slot.")
	metricSafe         = newMetric(gauge, "slot_safe_bytes", "WAL that may still be written before the slot is lost; left out where there is no limit.")
	metricSpilled      = newMetric(counter, "slot_spilled_bytes_total", "Bytes of large transactions that decoding wrote to the server's disk.")
	metricBlocked      = newMetric(gauge, "output_blocked_seconds", "How long the runtime has not read what we write; 0 when it reads.")
	metricInside       = newMetric(gauge, "transaction_seconds", "How long the transaction being streamed has been arriving; 0 between transactions.")
	metricBindings     = newMetric(gauge, "bindings", "Bindings in each phase.", "phase")
	metricRows         = newMetric(gauge, "backfill_rows", "Rows captured of a table that is being backfilled.", "table")
	metricEstimated    = newMetric(gauge, "backfill_estimated_rows", "Rows of a table that is being backfilled, as the server estimates.", "table")
	metricETA          = newMetric(gauge, "backfill_eta_seconds", "How long a table's backfill will take at its present rate.", "table")
)

// metricsCollector makes a scrape.
type metricsCollector struct {
	ctx     context.Context
	watcher *watcher
}

// Describe sends nothing: which tables there are changes.
func (m *metricsCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metricsCollector) Collect(to chan<- prometheus.Metric) {
	w, p := m.watcher, m.watcher.progress
	send := func(m metric, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
	}
	now := time.Now()
	since := func(nanos int64) float64 {
		if nanos == 0 {
			return 0
		}
		return max(0, now.Sub(time.Unix(0, nanos)).Seconds())
	}
	send(metricTransactions, float64(p.transactions.Load()))
	send(metricChanges, float64(p.changes.Load()))
	send(metricDocuments, float64(p.documents.Load()))
	send(metricWritten, float64(w.out.written.Load()))
	send(metricCheckpoints, float64(p.checkpoints.Load()))
	send(metricChunks, float64(p.chunks.Load()))
	send(metricReread, float64(p.reread.Load()))
	send(metricReconnects, float64(p.reconnects.Load()))
	send(metricStreamed, float64(p.cursor.Load()))
	send(metricBlocked, since(w.out.blockedSince.Load()))
	send(metricInside, since(p.began.Load()))
	p.mu.Lock()
	phases := p.phases
	p.mu.Unlock()
	for at, n := range phases {
		send(metricBindings, float64(n), phase(at).String())
	}
	for _, t := range w.tables() {
		send(metricRows, float64(t.rows), t.table)
		if t.estimated >= 0 {
			send(metricEstimated, t.estimated, t.table)
		}
		if eta := t.eta(); eta >= 0 {
			send(metricETA, eta.Seconds(), t.table)
		}
	}
	o, err := w.observe(m.ctx, time.Second)
	if err != nil {
		logrus.WithError(err).Debug("could not look at the server for a scrape")
		return
	}
	send(metricServer, float64(o.slot.end))
	send(metricBehind, float64(o.behind))
	if o.lag >= 0 {
		send(metricLag, o.lag.Seconds())
	}
	if o.spilled >= 0 {
		send(metricSpilled, float64(o.spilled))
	}
	if o.slot.exists {
		send(metricConfirmed, float64(o.slot.confirmed))
		send(metricRetained, float64(o.retained))
		if o.slot.safeWAL >= 0 {
			send(metricSafe, float64(o.slot.safeWAL))
		}
	}
}

// serveMetrics serves /metrics at METRICS_ADDRESS, if that is set, until ctx ends.
func serveMetrics(ctx context.Context, w *watcher) error {
	address := os.Getenv("METRICS_ADDRESS")
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return &userError{msg: fmt.Sprintf("METRICS_ADDRESS %q: %v; give a free address such as 127.0.0.1:9187, or none",
			address, err)}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&metricsCollector{ctx, w}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()
	logrus.WithField("address", strings.TrimSpace(listener.Addr().String())).Info("serving metrics")
	return nil
}
