// Numbers, sizes and times as text. null stands for what is not known.

export const NOTHING = "–";

export function count(number) {
  for (const [size, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= size) return (number / (letter === "k" ? 1e3 : size)).toFixed(1) + " " + letter;
  }
  return String(Math.round(number));
}

// A number per second: with one decimal where it is small.
export function rate(number) {
  if (number === null) return NOTHING;
  return number >= 10 || Number.isInteger(number) ? count(number) : number < 0.05 ? "<0.1" : number.toFixed(1);
}

export function perSecond(number) {
  return number === null ? NOTHING : `${rate(number)}/s`;
}

// A part of 1 in percent: with one decimal where it is small.
export function percent(part) {
  return part === null ? NOTHING : `${rate(Math.round(1000 * part) / 10 || 100 * part)} %`;
}

export function bytes(number) {
  if (number === null) return NOTHING;
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (number >= size) return `${digits(number / size)} ${unit}`;
  }
  return `${Math.round(number)} B`;
}

export function bytesPerSecond(number) {
  return number === null ? NOTHING : `${bytes(number)}/s`;
}

function digits(number) {
  return number >= 100 ? String(Math.round(number)) : String(+number.toPrecision(2));
}

// A latency with up to three digits; null: no requests.
export function duration(seconds) {
  if (seconds === null) return NOTHING;
  return seconds >= 1 ? `${+seconds.toPrecision(3)} s` : `${+(seconds * 1000).toPrecision(3)} ms`;
}

// A time span in its two largest units.
export function span(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  const parts = [];
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    if (rest >= size || (size === 1 && !parts.length)) parts.push(`${Math.floor(rest / size)} ${unit}`);
    else if (parts.length) break;
    rest %= size;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

// A date and time of day; the date is left out if it is today's.
export function moment(seconds) {
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return date.toDateString() === new Date().toDateString() ? time : `${day(seconds)} ${time}`;
}

export function day(seconds) {
  const date = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}
