package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// maxItems bounds a list in a body, as MaxScanRows bounds one in an answer. Beyond
// it: 413. Without it "{}," a million times would be a gigabyte of items.
const maxItems = 100_000

// list is a list that may be null, which is nil and not the same as empty.
type list[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *list[T]) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		*l = nil
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if open, err := d.Token(); err != nil || open != json.Delim('[') {
		return wrongValue(raw, "a list")
	}
	all := list[T]{}
	for d.More() {
		if len(all) == maxItems {
			return &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("a list in the body has more than %d items", maxItems)}
		}
		var item T
		if err := d.Decode(&item); err != nil {
			return err
		}
		all = append(all, item)
	}
	*l = all
	return nil
}
