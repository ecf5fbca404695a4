package invoke_test

import (
	"strings"
	"testing"

	"github.com/holdfast-lock/holdfast/lockclient/invoke"
)

func TestParseFunctions(t *testing.T) {
	arn := "arn:aws:lambda:eu-west-1:123456789012:function:a:only-ZGVwbG95Oio"
	got, err := invoke.ParseFunctions("acquire=" + arn + ", renew=b:live,release=c,force-release=d,status=e,rules=f")
	want := invoke.Functions{Acquire: arn, Renew: "b:live", Release: "c", ForceRelease: "d", Status: "e", Rules: "f"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := invoke.ParseFunctions("status=e"); err != nil || got != (invoke.Functions{Status: "e"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for list, says := range map[string]string{
		"": `"" names no function`, "acquire": `"acquire" names no function`, "acquire=": "names no function", "acquire=a,": `"" names no function`,
		"stream=a": `"stream" is no function of a coordinator`, "renew=a,renew=b": "the function for renew is named twice",
	} {
		if got, err := invoke.ParseFunctions(list); err == nil || !strings.Contains(err.Error(), says) || got != (invoke.Functions{}) {
			t.Errorf("%q: %+v, %v", list, got, err)
		}
	}
}
