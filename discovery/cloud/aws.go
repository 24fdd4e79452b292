package cloud

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// awsCredentials are of this instance's role, or of the environment.
type awsCredentials struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string `json:"SecretAccessKey"`
	Token           string `json:"Token"`
}

var awsRegion = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// aws lists running instances with a tag (ec2:DescribeInstances), by the role of
// this instance or AWS_ACCESS_KEY_ID and its companions.
func (q *Query) aws(ctx context.Context) ([]string, error) {
	addressType := q.args["addr_type"]
	if !slices.Contains([]string{"", "private_v4", "public_v4", "public_v6"}, addressType) {
		return nil, fmt.Errorf("addr_type is %.20q, and must be private_v4, public_v4 or public_v6", addressType)
	}
	session, err := q.awsSession(ctx)
	if err != nil {
		return nil, err
	}
	region := q.args["region"]
	if region == "" {
		region = q.env.Getenv("AWS_REGION")
	}
	if region == "" {
		if region, err = q.getText(ctx, http.MethodGet, q.env.Metadata+"/latest/meta-data/placement/region", session); err != nil {
			return nil, fmt.Errorf("the region of this instance: %w", err)
		}
	}
	if !awsRegion.MatchString(region) {
		return nil, fmt.Errorf("the region is %.40q", region)
	}
	credentials, err := q.awsCredentials(ctx, session)
	if err != nil {
		return nil, err
	}
	domain := "amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	api := q.env.api("https://ec2." + region + "." + domain)
	query := url.Values{
		"Action": {"DescribeInstances"}, "Version": {"2016-11-15"}, "MaxResults": {"500"},
		"Filter.1.Name": {"tag:" + q.args["tag_key"]}, "Filter.1.Value.1": {q.args["tag_value"]},
		"Filter.2.Name": {"instance-state-name"}, "Filter.2.Value.1": {"running"},
	}
	var hosts []string
	for range maxPages {
		page, err := q.awsInstances(ctx, api, region, credentials, query)
		if err != nil {
			return nil, err
		}
		for _, i := range page.Instances {
			ip := map[string]string{"": i.PrivateIP, "private_v4": i.PrivateIP, "public_v4": i.PublicIP, "public_v6": i.IPv6}[addressType]
			if ip != "" {
				hosts = append(hosts, ip)
			}
		}
		if page.Next == "" {
			return hosts, nil
		}
		query.Set("NextToken", page.Next)
	}
	return hosts, nil
}

type awsPage struct {
	Next      string `xml:"nextToken"`
	Instances []struct {
		PrivateIP string `xml:"privateIpAddress"`
		PublicIP  string `xml:"ipAddress"`
		IPv6      string `xml:"ipv6Address"`
	} `xml:"reservationSet>item>instancesSet>item"`
}

func (q *Query) awsInstances(ctx context.Context, api, region string, c awsCredentials, query url.Values) (awsPage, error) {
	var page awsPage
	// As the signature wants it: a space is %20.
	encoded := strings.ReplaceAll(query.Encode(), "+", "%20")
	r, err := http.NewRequest(http.MethodGet, api+"/?"+encoded, nil)
	if err != nil {
		return page, err
	}
	sign(r, encoded, region, "ec2", c, q.env.Now())
	body, err := q.fetch(ctx, r)
	if err != nil {
		return page, err
	}
	if err := xml.Unmarshal(body, &page); err != nil {
		return page, fmt.Errorf("the answer of %s is no XML that is understood: %w", r.URL.Host, err)
	}
	return page, nil
}

// awsSession is the header for this instance's metadata (IMDSv2), nil when
// everything is in the environment.
func (q *Query) awsSession(ctx context.Context) (map[string]string, error) {
	if q.env.Getenv("AWS_ACCESS_KEY_ID") != "" && (q.args["region"] != "" || q.env.Getenv("AWS_REGION") != "") {
		return nil, nil
	}
	token, err := q.getText(ctx, http.MethodPut, q.env.Metadata+"/latest/api/token", map[string]string{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": "60"})
	if err != nil {
		return nil, fmt.Errorf("the metadata of this instance: %w", err)
	}
	return map[string]string{"X-Aws-Ec2-Metadata-Token": token}, nil
}

func (q *Query) awsCredentials(ctx context.Context, session map[string]string) (awsCredentials, error) {
	c := awsCredentials{AccessKeyID: q.env.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: q.env.Getenv("AWS_SECRET_ACCESS_KEY"), Token: q.env.Getenv("AWS_SESSION_TOKEN")}
	if c.AccessKeyID != "" {
		return c, nil
	}
	base := q.env.Metadata + "/latest/meta-data/iam/security-credentials/"
	role, err := q.getText(ctx, http.MethodGet, base, session)
	if err != nil {
		return c, fmt.Errorf("the role of this instance: %w", err)
	}
	role, _, _ = strings.Cut(strings.TrimSpace(role), "\n")
	if err := q.getJSON(ctx, base+url.PathEscape(role), session, &c); err != nil {
		return c, fmt.Errorf("the credentials of this instance: %w", err)
	}
	return c, nil
}

// sign adds Signature Version 4 to a GET without a body.
func sign(r *http.Request, query, region, service string, c awsCredentials, now time.Time) {
	at, day := now.UTC().Format("20060102T150405Z"), now.UTC().Format("20060102")
	headers := [][2]string{{"host", r.URL.Host}, {"x-amz-date", at}}
	r.Header.Set("X-Amz-Date", at)
	if c.Token != "" {
		headers = append(headers, [2]string{"x-amz-security-token", c.Token})
		r.Header.Set("X-Amz-Security-Token", c.Token)
	}
	var canonical, names strings.Builder
	for i, h := range headers {
		canonical.WriteString(h[0] + ":" + h[1] + "\n")
		if i > 0 {
			names.WriteByte(';')
		}
		names.WriteString(h[0])
	}
	empty := sha256.Sum256(nil)
	request := strings.Join([]string{r.Method, "/", query, canonical.String(), names.String(), hex.EncodeToString(empty[:])}, "\n")
	hashed := sha256.Sum256([]byte(request))
	scope := day + "/" + region + "/" + service + "/aws4_request"
	toSign := "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])
	key := []byte("AWS4" + c.SecretAccessKey)
	for _, part := range []string{day, region, service, "aws4_request", toSign} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s",
		c.AccessKeyID, scope, names.String(), hex.EncodeToString(key)))
}
