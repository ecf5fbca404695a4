/** What the client needs of the `context` that Lambda passes to a handler. */
export interface Invocation {
  /** The time in milliseconds until the invocation is ended. */
  getRemainingTimeInMillis(): number;
  awsRequestId: string;
  functionName?: string;
}

/** The time in milliseconds that the runtime needs to report an invocation's outcome before its deadline. */
const reportMargin = 500;

/**
 * The time limit in milliseconds of a release after the handler's work: `most`, but in an invocation at most its remaining time less the report
 * margin, or half of the remaining time if that is short.
 */
export function budget(invocation: Invocation | undefined, most: number): number {
  if (!invocation) return most;
  const left = invocation.getRemainingTimeInMillis();
  return Math.max(Math.min(most, left - Math.min(left / 2, reportMargin)), 0);
}

/** The owner of the locks that the invocation holds. */
export function ownerOf(invocation: Invocation): string {
  return `${invocation.functionName ?? process.env["AWS_LAMBDA_FUNCTION_NAME"] ?? ""}/${invocation.awsRequestId}`;
}

/**
 * The TTL in milliseconds of a lease that lasts from now until the invocation's deadline and a margin of a second and twice the margin for the
 * rate of clocks (1/1000). So the lease is proved until the end of the invocation, and outlives it by two seconds at most.
 */
export function ttlOf(invocation: Invocation): number {
  const left = invocation.getRemainingTimeInMillis();
  return Math.max(Math.floor(left + 1000 + (2 * left) / 1000), 1000);
}
