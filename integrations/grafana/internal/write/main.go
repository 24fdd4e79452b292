// Command write writes the dashboard into a file.
package main

import (
	"fmt"
	"os"

	"github.com/kahu-sh/kahu/integrations/grafana"
)

func main() {
	text, err := grafana.Dashboard()
	if err == nil {
		err = os.WriteFile(os.Args[1], append(text, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
