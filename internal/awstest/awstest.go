// Package awstest gives tests clients of AWS whose requests a function answers.
package awstest

import (
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// A Doer answers HTTP requests. It is an [aws.HTTPClient].
type Doer func(*http.Request) (*http.Response, error)

// Do calls d.
func (d Doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// Config is a configuration with dummy credentials and no retries, whose requests client answers.
func Config(client aws.HTTPClient) aws.Config {
	return aws.Config{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), HTTPClient: client,
		BaseEndpoint: aws.String("http://aws.test"), Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// Answer is a response in AWS's JSON protocol.
func Answer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
	}
}
