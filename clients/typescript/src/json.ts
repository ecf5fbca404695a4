// Readers of members of answers, which may be another server's: what is absent or of another type becomes empty or 0.

/** Far above those of a coordinator: a lease lasts for 367 days at most. Pauses are computed from these numbers. */
const maxMilliseconds = 400 * 24 * 3_600_000;

export function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

export function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A whole number from 0 to 2^53 - 1. */
export function whole(value: unknown): number {
  return Number.isSafeInteger(value) && (value as number) > 0 ? (value as number) : 0;
}

export function milliseconds(value: unknown): number {
  return typeof value === "number" && value > 0 ? Math.min(value, maxMilliseconds) : 0;
}
