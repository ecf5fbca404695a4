/**
 * Acquires and keeps Holdfast locks.
 *
 *     const client = new Client({ endpoint: "http://127.0.0.1:7420" });
 *     await client.withLock("report:daily", (lease) => writeReport(lease.fence, lease.signal));
 *
 * @packageDocumentation
 */
export { Client } from "./client.js";
export {
  ClosedError,
  CloseError,
  type Freeze,
  type Holder,
  HoldfastError,
  LeaseLostError,
  LeaseReleasedError,
  type Limit,
  LimitError,
  LockFrozenError,
  LockHeldError,
  type Operation,
  RefusedError,
  UnavailableError,
} from "./errors.js";
export type { SignableRequest, Signer } from "./http.js";
export type { Invocation } from "./invocation.js";
export { type ExclusiveOptions, exclusive, type LockMiddleware, leaseOf, lockMiddleware } from "./lambda.js";
export type { Lease } from "./lease.js";
export { escapeName, unescapeName } from "./names.js";
export type { AcquireOptions, AdoptOptions, ClientConfig } from "./options.js";
export type { Status, StatusHolder, StatusWaiter } from "./status.js";
export type { Transport, TransportRequest, TransportResponse } from "./transport.js";
