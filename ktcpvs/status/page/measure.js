// Rates and latencies from the difference of two updates.

// The time within which this share of the requests was complete, in seconds; null: there were none. It is interpolated
// inside of its bucket. bounds: the upper bounds of the buckets; one more bucket is for longer times.
export function within(buckets, bounds, share) {
  const enough = share * buckets.reduce((sum, one) => sum + one, 0);
  let seen = 0;
  let lower = 0;
  for (let place = 0; place < buckets.length; place++) {
    const bound = bounds[Math.min(place, bounds.length - 1)];
    const here = buckets[place];
    if (here && seen + here >= enough) return lower + ((bound - lower) * (enough - seen)) / here;
    seen += here;
    lower = bound;
  }
  return null;
}

// The increase of a counter per second: 0 for one that was reset; null for one that is new, as all are in the first
// update. now, then: the counter, now and before; null or undefined: it is not known.
export function gain(now, then, seconds) {
  return now == null || then == null || seconds <= 0 ? null : Math.max(0, now - then) / seconds;
}

function gained(now, then) {
  return then ? now.map((count, place) => Math.max(0, count - then[place])) : now.map(() => 0);
}

// The errors of a server: failed connections and requests, and responses of 500 and above.
export function serverErrors(stats) {
  return stats.failures + stats.answers["5xx"];
}

// The errors that clients of a service got: those of servers that were not retried, those of the switch, and responses
// that broke off.
function clientErrors(one, isRequests) {
  const codes = Object.entries(one.stats.refusals).filter(([code]) => !isRequests || code >= "500");
  const own = codes.reduce((sum, [, number]) => sum + number, 0);
  const all = one.redirect ? [...one.servers, one.redirect] : one.servers;
  return own + one.stats.broken_responses + all.reduce((sum, server) => sum + server.stats.answers["5xx"], 0);
}

// What a server did in the last seconds. then: its stats before; undefined: they are not known.
export function measureServer(stats, then, seconds, bounds) {
  const buckets = gained(stats.buckets, then && then.buckets);
  return {
    rate: gain(stats.total, then && then.total, seconds),
    errors: gain(serverErrors(stats), then && serverErrors(then), seconds),
    in: gain(stats.bytes_in, then && then.bytes_in, seconds),
    out: gain(stats.bytes_out, then && then.bytes_out, seconds),
    buckets,
    half: within(buckets, bounds, 0.5),
    slow: within(buckets, bounds, 0.99),
  };
}

// The requests that a rule has taken; null: it is not counted, or not by itself. counts: label -> number.
function takenBy({ label }, counts) {
  return Object.hasOwn(counts, label) ? counts[label] : null;
}

// What a rule did in the last seconds, and its total. total, then: the requests that it has taken, now and before. all:
// the requests per second of its service; null: they are not known.
function measureRule(total, then, seconds, all) {
  const rate = gain(total, then, seconds);
  // A request that waits for a server counts for its rule, and not yet for its service.
  return { rate, share: rate === null || !all ? null : Math.min(1, rate / all), total };
}

// What a service did in the last seconds, and its totals. then: the service before; undefined: it is not known.
export function measureService(one, then, seconds, bounds) {
  const isRequests = one.unit === "EACH_REQUEST";
  const counter = isRequests ? "requests" : "total";
  const before = new Map((then ? then.servers : []).map((server) => [server.address, server.stats]));
  const servers = one.servers.map((server) => measureServer(server.stats, before.get(server.address), seconds, bounds));
  const redirect = one.redirect
    ? measureServer(one.redirect.stats, then && then.redirect && then.redirect.stats, seconds, bounds) : null;
  const all = redirect ? [...servers, redirect] : servers;
  const buckets = bounds.concat([0]).map((_, place) => all.reduce((sum, now) => sum + now.buckets[place], 0));
  const errors = clientErrors(one, isRequests);
  const rate = gain(one.stats[counter], then && then.stats[counter], seconds);
  return {
    isRequests,
    servers,
    rules: one.rules.map((rule) => measureRule(takenBy(rule, one.stats.rules), takenBy(rule, then ? then.stats.rules : {}), seconds, rate)),
    redirect,
    active: one.stats.active,
    queued: one.stats.queued,
    rate,
    errors: gain(errors, then && clientErrors(then, isRequests), seconds),
    in: gain(one.stats.bytes_in, then && then.stats.bytes_in, seconds),
    out: gain(one.stats.bytes_out, then && then.stats.bytes_out, seconds),
    half: within(buckets, bounds, 0.5),
    slow: within(buckets, bounds, 0.99),
    allErrors: errors,
    total: one.stats[counter],
  };
}
