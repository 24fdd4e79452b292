// Package wire looks at kahu as Kahuna's clients do: over TCP with TLS, in gRPC and
// REST, at one endpoint and at a pool of three, on voters and on a proxy.
//
// kahuna-dotnet.sh and kahuna-ts.sh run the suites of Kahuna's own clients when
// somebody has a checkout of them. Where neither is at hand, the tests here tell the
// same stories against three real agents: testdata/kahuna-client-tests.txt names
// every test of Kahuna.Client.Tests, and TestEveryTestIsTold holds that list and the
// stories together. The client that they use behaves as Kahuna.Client does where the
// server can notice: which requests go through batch streams, what is asked again,
// which locks a session takes.
package wire
