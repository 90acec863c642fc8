"""Traefik, the cluster's Ingress controller, from its module archive.

The archive alone doesn't build: the dashboard's files and a nested module are left out of it, and it pins a commit of
one dependency that can't be had everywhere. The two hundred cloud services in its ACME client are not needed here.
"""

import json
import shutil
from pathlib import Path

from tests.programs import go

TRAEFIK = "github.com/traefik/traefik/v3@v3.7.13"
LEGO = "github.com/go-acme/lego/v5@v5.4.1"
AUTH = "github.com/containous/go-http-auth v0.4.1-0.20200324110947-a37a7636d23e"
"""Basic authentication only, and of no use here: an older commit of the same module."""
SUMS = f"""\
{AUTH} h1:D+uTEzDZc1Fhmd0Pq06c+O9+KkAyExw0eVmu/NOqaHU=
{AUTH}/go.mod h1:s8kLgBQolDbsJOPVIGCEEv9zGAKUUf/685Gi0Qqg8z8=
"""
WRITTEN = {
    "traefik/webui/static/index.html": "<!doctype html>\n",
    "traefik/pkg/config/dynamic/ext/go.mod": "module github.com/traefik/traefik/dynamic/ext\n\ngo 1.23\n",
    "traefik/pkg/config/dynamic/ext/ext.go": """\
package ext

type HTTP struct{}
type Router struct{}

func (in *HTTP) DeepCopyInto(out *HTTP)     { *out = *in }
func (in *Router) DeepCopyInto(out *Router) { *out = *in }
""",
    "lego/providers/dns/zz_gen_dns_providers.go": """\
package dns

import (
	"fmt"

	"github.com/go-acme/lego/v5/challenge"
)

func NewDNSChallengeProviderByName(name string) (challenge.Provider, error) {
	return nil, fmt.Errorf("no DNS provider %q in this build", name)
}
""",
}


def sources(folder: Path) -> Path:
    """Traefik's main module in `folder`, ready to build; go.sum holds the hashes of all that it takes."""
    for name, module in {"traefik": TRAEFIK, "lego": LEGO}.items():
        archive = json.loads(go(Path(__file__).parent, "mod", "download", "-json", module))["Dir"]
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(archive, folder / name)
        for path in [folder / name, *(folder / name).rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
    for name, text in WRITTEN.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    main = folder / "traefik"
    go(main, "mod", "edit", "-replace=github.com/go-acme/lego/v5=../lego",
       f"-replace=github.com/abbot/go-http-auth={AUTH.replace(' ', '@')}")  # fmt: skip
    with (main / "go.sum").open("a") as sums:
        sums.write(SUMS)
    return main
