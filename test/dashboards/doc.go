// Package dashboards holds integrations/grafana to the metrics of a running
// agent: a rule or panel that asks for a metric nobody exports would be silent
// for ever.
package dashboards
