// Numbers and times as people read them. Pure: the same number gives the same text everywhere.

/** A narrow space that no line breaks at: groups of digits, and between a number and its unit. */
export const THIN = "\u202f";
const MINUS = "\u2212";
export const NOTHING = "\u2013";

function grouped(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, THIN);
}

/** A whole number: 738, 12 000. */
export function count(value: number): string {
  const whole = Math.round(value);
  return (whole < 0 ? MINUS : "") + grouped(String(Math.abs(whole)));
}

/** So many each second, or milliseconds: as many digits as say something. */
export function amount(value: number | null | undefined): string {
  if (value === null || value === undefined) return NOTHING;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.1) return value.toFixed(2);
  return size < 99.95 ? value.toFixed(1) : count(value);
}

/** 69.4 %. */
export function percent(value: number, digits = 1): string {
  return value.toFixed(digits) + THIN + "%";
}

/** 70 %, or 33.3 % where it is not whole. */
export function share(value: number): string {
  return percent(value, Math.abs(value - Math.round(value)) < 0.05 ? 0 : 1);
}

/** −0.6, +1.2, 0.0. */
export function signed(value: number): string {
  const text = Math.abs(value).toFixed(1);
  if (text === "0.0") return text;
  return (value < 0 ? MINUS : "+") + text;
}

/** 45 s, 12 m, 2 h 3 m, 3 d 4 h. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const pair = (a: number, unit: string, b: number, small: string) =>
    `${a}${THIN}${unit}` + (b > 0 ? ` ${b}${THIN}${small}` : "");
  if (whole < 60) return `${whole}${THIN}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 10) return pair(minutes, "m", whole % 60, "s");
  if (minutes < 60) return `${minutes}${THIN}m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return pair(hours, "h", minutes % 60, "m");
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** 12.4 MB. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return (unit === 0 ? count(value) : amount(value)) + THIN + units[unit];
}

const two = (value: number) => String(value).padStart(2, "0");

/** Local time of day; with the date where it is not the day of `now`. Both in seconds since 1970. */
export function clock(at: number, now: number): string {
  const when = new Date(at * 1000);
  const time = when.toTimeString().slice(0, 8);
  if (when.toDateString() === new Date(now * 1000).toDateString()) return time;
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${time}`;
}

/** 1 call, 132 calls. */
export function plural(value: number, one: string, many = one + "s"): string {
  return `${count(value)}\u00a0${Math.round(value) === 1 ? one : many}`;
}

/** "a", "a and b", "a, b and c". */
export function list(words: string[]): string {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
}

export function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
