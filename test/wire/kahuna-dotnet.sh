#!/bin/bash
# Runs Kahuna.Client.Tests, the suite of Kahuna's .NET client, against kahu:
#
#   KAHUNA_DIR=~/kahuna test/wire/kahuna-dotnet.sh [DOTNET TEST ARGUMENT]...
#
# KAHUNA_DIR is a checkout of github.com/kahunakv/kahuna. The suite names its
# endpoints itself: https on localhost, ports 8082, 8084 and 8086, any certificate;
# so these ports must be free. It goes through gRPC and REST, one URL and the pool,
# both durabilities. Arguments go to dotnet test, for example
# --filter FullyQualifiedName~TestLocks. Exit code 0: all passed.
#
# Needs Go, bash and the .NET SDK 10 (https://dotnet.microsoft.com/download), and
# nuget.org for the suite's packages. KEEP=1 leaves the agents' logs.
set -u -o pipefail
PORTS="8082 8084 8086 8088"
. "$(dirname "$0")/agents.sh"

project=${KAHUNA_DIR:-}/Kahuna.Client.Tests/Kahuna.Client.Tests.csproj
[[ -n ${KAHUNA_DIR:-} && -f $project ]] ||
  die "KAHUNA_DIR must name a checkout of github.com/kahunakv/kahuna: git clone https://github.com/kahunakv/kahuna"
command -v dotnet >/dev/null || die "the .NET SDK 10 is needed: https://dotnet.microsoft.com/download"
dotnet --list-sdks | grep -q '^1[0-9]\.' || die "the .NET SDK 10 or newer is needed, and there is: $(dotnet --list-sdks | tr '\n' ' ')"

start_agents
dotnet test "$project" --nologo "$@" || die "Kahuna.Client.Tests failed"
say "all passed"
