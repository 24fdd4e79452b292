package cloud

import (
	"net/http"
	"time"
)

// Sign is sign without a session token.
func Sign(r *http.Request, query, region, service, id, key string, now time.Time) {
	sign(r, query, region, service, awsCredentials{AccessKeyID: id, SecretAccessKey: key}, now)
}
