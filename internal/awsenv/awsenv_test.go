package awsenv

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
)

func env(set map[string]string) func(string) string {
	return func(name string) string { return set[name] }
}

// What the environment says reaches the clients that are made of the configuration.
func TestConfig(t *testing.T) {
	set := map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token",
		"AWS_RETRY_MODE": "adaptive", "AWS_MAX_ATTEMPTS": "7", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "TRUE",
		"AWS_ENDPOINT_URL": "http://all.test", "AWS_ENDPOINT_URL_DYNAMODB": "http://table.test",
	}
	cfg, err := Config(env(set))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil || keys.AccessKeyID != "key" || keys.SecretAccessKey != "secret" || keys.SessionToken != "token" {
		t.Errorf("credentials %v, %v", keys.AccessKeyID, err)
	}
	table := dynamodb.NewFromConfig(cfg).Options()
	if table.Region != "eu-west-1" || *table.BaseEndpoint != "http://table.test" || table.RetryMaxAttempts != 7 || table.RetryMode != aws.RetryModeAdaptive {
		t.Errorf("the table's client: %s, %s, %d, %s", table.Region, *table.BaseEndpoint, table.RetryMaxAttempts, table.RetryMode)
	}
	if table.EndpointOptions.UseFIPSEndpoint != aws.FIPSEndpointStateEnabled || table.EndpointOptions.UseDualStackEndpoint != aws.DualStackEndpointStateEnabled {
		t.Errorf("endpoints %+v", table.EndpointOptions)
	}
	if queue := sqs.NewFromConfig(cfg).Options(); *queue.BaseEndpoint != "http://all.test" {
		t.Errorf("the queue's client: %s", *queue.BaseEndpoint)
	}
	cfg, err = Config(env(map[string]string{"AWS_REGION": "eu-west-1"}))
	if err != nil {
		t.Fatal(err)
	}
	if o := dynamodb.NewFromConfig(cfg).Options(); o.BaseEndpoint != nil || o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled || o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled {
		t.Errorf("without settings: %+v", o.EndpointOptions)
	}
	if _, err := cfg.Credentials.Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
}

// A setting with a bad value is named.
func TestBadSettings(t *testing.T) {
	for name, value := range map[string]string{
		"AWS_RETRY_MODE": "often", "AWS_MAX_ATTEMPTS": "0", "AWS_USE_FIPS_ENDPOINT": "yes", "AWS_USE_DUALSTACK_ENDPOINT": "1",
	} {
		if _, err := Config(env(map[string]string{name: value})); err == nil || !strings.Contains(err.Error(), name+" is "+`"`+value) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if _, err := Config(env(map[string]string{"AWS_MAX_ATTEMPTS": "many"})); err == nil {
		t.Error("AWS_MAX_ATTEMPTS=many is taken")
	}
}
