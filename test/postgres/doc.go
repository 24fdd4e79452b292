// Package postgres tries the fencing SQL of integrations/postgres against a real
// PostgreSQL, alone and under `kahu exec`. It skips, and says so, where
// PostgreSQL is not installed.
package postgres
