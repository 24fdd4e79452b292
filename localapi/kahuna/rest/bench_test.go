package rest_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/localapi/kahuna/rest"
)

// discard is a ResponseWriter that keeps nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// What the translation of one request costs, without network and service.
func BenchmarkTranslate(b *testing.B) {
	h := rest.New(rest.Config{Service: new(scripted), Logger: slog.New(slog.DiscardHandler)})
	value := strings.Repeat("AAAA", 32)
	for _, one := range []struct{ name, path, body string }{
		{"set", "/v1/kv/try-set", `{"transactionId":{"n":0,"l":0,"c":0},"coordinatorKey":"","operationIdHigh":0,"operationIdLow":0,"key":"bench/1","value":"` + value + `","expiresMs":0,"flags":1,"durability":1}`},
		{"get", "/v1/kv/try-get", `{"key":"bench/1","revision":-1,"readTimestamp":{"n":0,"l":0,"c":0},"durability":1}`},
		{"lock", "/v1/locks/try-lock", `{"resource":"bench/1","owner":"bWU=","expiresMs":1000,"durability":1}`},
		{"set100", "/v1/kv/try-set-many", `{"items":[` + strings.TrimSuffix(strings.Repeat(`{"key":"bench/1","value":"`+value+`","flags":1,"durability":1},`, 100), ",") + `]}`},
	} {
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, one.path, strings.NewReader(one.body))
				r.Header.Set("Content-Type", "application/json")
				h.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}
