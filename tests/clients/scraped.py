"""What `/metrics` says, read with Prometheus's own parser, and waiting for it to say something."""

import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """One scrape. `scraped.value(name, **labels)` is one sample; `scraped.sum(name, **labels)` adds all that match."""

    def __init__(self, server):
        with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as response:
            self.text = response.read().decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = [
            sample._replace(name=self._as_served(sample.name)) for family in self.families.values() for sample in family.samples
        ]

    def _as_served(self, name):
        """The parser gives every counter the ending that OpenMetrics wants; Triton's have none."""
        short = name.removesuffix("_total")
        return short if f"\n# TYPE {short} counter\n" in self.text else name

    def matching(self, name, **labels):
        wanted = labels.items()
        return [s for s in self.samples if s.name == name and all(s.labels.get(k) == str(v) for k, v in wanted)]

    def value(self, name, **labels):
        (sample,) = self.matching(name, **labels)
        return sample.value

    def sum(self, name, **labels):
        return sum(sample.value for sample in self.matching(name, **labels))

    def ended(self, function):
        """Requests of a function that have ended, by (outcome, reason); zeros left out."""
        samples = self.matching("penstock_requests_total", function=function)
        return {(s.labels["outcome"], s.labels["reason"]): s.value for s in samples if s.value}


def until(condition, what, timeout_s=20):
    """Asks again and again; the first answer that is true. Fails when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)
