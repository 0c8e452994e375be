# The control plane: who may have which part of which GPU. No CUDA call travels here.
#
# Gate is all that a fresh connection can reach, and it can do nothing but log in. What
# login returns are capabilities: they end with the connection. Every method answers with
# a union of its result and an Error; an exception is a fault of the program.
@0xd5f0b1f7c6a94e21;

const version :UInt32 = 1;

struct Error {
  enum Code {
    fault @0;       # of the server; its log has more under the number in the message
    invalid @1;     # the request makes no sense
    version @2;     # this client and this server do not understand each other
    full @3;        # not granted: see what is free in the message
    over @4;        # the lease or session has ended
    limit @5;       # too many calls or leases at once
    denied @6;      # the role of who asks does not allow it
  }
  code @0 :Code;
  message @1 :Text;       # one line, for people
}

interface Gate {
  login @0 (hello :Hello) -> (result :Result);
  struct Result {
    union {
      error @0 :Error;
      ok @1 :Welcome;
    }
  }
}

struct Hello {
  version @0 :UInt32;     # of this file
  release @1 :Text;       # of fdcore
  protocol @2 :Data;      # hash of the data plane's messages
  user @3 :Text;          # for lists; who really asks is known by the socket
  host @4 :Text;
  pid @5 :UInt32;
  program @6 :Text;
  role @7 :Text;          # to be no more than this; empty: what one is
}

struct Welcome {
  session @0 :Session;
  release @1 :Text;
  protocol @2 :Data;
  server @3 :Data;        # 16 bytes, another at each start: two addresses, one server?
  user @4 :Text;          # who the server takes the client for
  role @5 :Text;
}

interface Session {
  reserve @0 (ask :Ask) -> (result :Result);
  struct Result {
    union {
      error @0 :Error;
      ok @1 :Grant;
    }
  }

  gpus @1 () -> (result :Gpus);
  struct Gpus {
    union {
      error @0 :Error;
      ok @1 :List(Gpu);
    }
  }

  pool @2 () -> (result :PoolResult);
  struct PoolResult {
    union {
      error @0 :Error;
      ok @1 :Pool;
    }
  }

  # Those that leases() tells of.
  sessions @3 () -> (result :Sessions);
  struct Sessions {
    union {
      error @0 :Error;
      ok @1 :List(Activity);
    }
  }

  # The asker's own; everybody's for administrators, viewers and servers of the pool.
  leases @4 () -> (result :Leases);
  struct Leases {
    union {
      error @0 :Error;
      ok @1 :List(LeaseRow);
    }
  }

  # For administrators. id: as it begins, in hexadecimal digits.
  release @5 (id :Text) -> (result :Done);
  setQuota @7 (quota :Quota, drop :Bool) -> (result :Done);
  drain @8 (on :Bool) -> (result :Done);      # nothing new is granted while it is on
  revoke @9 (who :Text) -> (result :Done);    # a name or serial; the founding server's
  struct Done {
    union {
      error @0 :Error;
      ok @1 :Void;
    }
  }

  quotas @6 () -> (result :Quotas);
  struct Quotas {
    union {
      error @0 :Error;
      ok @1 :List(Quota);
    }
  }

  # Requests that wait; the asker's own, or everybody's as with leases.
  queue @10 () -> (result :QueueResult);
  struct QueueResult {
    union {
      error @0 :Error;
      ok @1 :List(Waiting);
    }
  }

  # What the server has counted since it began: names and numbers.
  totals @11 () -> (result :Totals);
  struct Totals {
    union {
      error @0 :Error;
      ok @1 :List(Figure);
    }
  }

  # The last lines of the server's log behind a number; 0: all that are kept.
  log @12 (after :UInt64) -> (result :LogResult);
  struct LogResult {
    union {
      error @0 :Error;
      ok @1 :List(LogLine);
    }
  }

  # Whoever shows the secret of which this is the SHA-256 is the asker, with this role at
  # most: become(), once, within so many seconds. The secret is replaced by one of whose
  # hash that is next, good for as long as is said there. Nothing is reserved that way.
  lend @13 (hash :Data, role :Text, seconds :UInt32) -> (result :Done);
  become @14 (secret :Data, next :Data, seconds :UInt32) -> (result :Became);
  struct Became {
    union {
      error @0 :Error;
      ok @1 :Who;
    }
  }
  struct Who {
    user @0 :Text;
    host @1 :Text;
    role @2 :Text;
  }

  # Of the founding server, for administrators: a token to join with, and who has joined.
  token @15 (role :Text, seconds :UInt32, uses :UInt32, whom :Text) -> (result :TokenResult);
  struct TokenResult {
    union {
      error @0 :Error;
      ok @1 :Text;
    }
  }
  enrolled @16 () -> (result :Enrolled);
  struct Enrolled {
    union {
      error @0 :Error;
      ok @1 :List(Member);
    }
  }

  # What the server finds wrong, and right, with itself.
  checks @17 () -> (result :Checks);
  struct Checks {
    union {
      error @0 :Error;
      ok @1 :List(Check);
    }
  }

  # The servers of the pool that are alive, this one among them; none: it knows no other.
  peers @18 () -> (result :Peers);
  struct Peers {
    union {
      error @0 :Error;
      ok @1 :List(Peer);
    }
  }
}

struct Peer {
  server @0 :Data;        # as in Welcome
  address @1 :Text;       # of its control plane
  machine @2 :Text;       # as in Grant; without a network the address means this one
}

struct Figure {
  name @0 :Text;
  value @1 :Float64;
}

struct Waiting {
  number @0 :UInt32;      # by arrival
  user @1 :Text;
  host @2 :Text;
  pid @3 :UInt32;
  program @4 :Text;
  count @5 :UInt32;       # as in Ask
  memory @6 :UInt64;
  fraction @7 :Float64;
  priority @8 :Int32;
  seconds @9 :Float64;    # how long already
}

struct LogLine {
  number @0 :UInt64;
  time @1 :Float64;
  level @2 :Text;
  text @3 :Text;
}

struct Member {
  name @0 :Text;
  role @1 :Text;
  serial @2 :Text;
  expires @3 :Float64;
  revoked @4 :Bool;
}

# A lease as lists have it.
struct LeaseRow {
  id @0 :Data;
  user @1 :Text;
  host @2 :Text;
  pid @3 :UInt32;
  program @4 :Text;
  since @5 :Float64;      # seconds since 1970
  sessions @6 :UInt32;    # client processes attached
  slices @7 :List(Grant.Slice);
  used @8 :List(UInt64);  # bytes that its programs have of each slice
  busy @9 :List(UInt64);  # ns that its kernels ran, as far as the driver says; or empty
}

# What a user may have of this server at once, or of all that share quotas; 0: as much as
# there is. "*": everybody who has none.
struct Quota {
  user @0 :Text;
  gpus @1 :UInt32;
  memory @2 :UInt64;
  priority @3 :Int32;     # the highest that they may ask for
}

# What a session has done so far, as its worker counts it.
struct Activity {
  id @0 :Data;
  user @1 :Text;
  host @2 :Text;
  pid @3 :UInt32;
  program @4 :Text;
  road @5 :Text;
  counters @6 :List(Counter);     # none: the worker did not answer
  struct Counter {
    name @0 :Text;
    value @1 :UInt64;
  }
  calls @7 :List(Tally);
  struct Tally {
    name @0 :Text;
    seen @1 :Text;        # what the program called
    messages @2 :UInt64;
    waits @3 :UInt64;     # messages whose sender waited
  }
  lease @8 :Data;
}

struct Ask {
  count @0 :UInt32;
  memory @1 :UInt64;      # bytes of each; 0: see fraction
  fraction @2 :Float64;   # of each one's memory; 0: whole GPUs
  within @3 :UInt32;      # seconds in which a hold has to come; 0: while the connection is
  only @4 :List(UInt32);  # of these GPUs; empty: of all
  wait @6 :UInt32;        # seconds to wait for it; 0: granted at once or refused
  priority @7 :Int32;     # -100 to 100; above a user's own it is refused
  idle @5 :UInt32;        # seconds without a session after which the lease is freed; 0: never
  compute @8 :UInt32;     # percent of each one's time; 0: no share of it
}

struct Gpu {
  ordinal @0 :UInt32;
  name @1 :Text;
  uuid @2 :Text;
  memory @3 :UInt64;
  free @4 :UInt64;
  pci @5 :Text;
  leases @6 :UInt32;      # that have a part of it
  used @7 :UInt64;        # bytes that programs have of it
  figures @8 :List(Figure);       # what is known of the moment: see host/gauges.py
  kept @9 :UInt32;        # percent of its time that leases have as their share
  whole @10 :Bool;        # given as a whole only: one process at a time can have it
}

# A server as people see it, and as filters choose it.
struct Pool {
  hostname @0 :Text;
  release @1 :Text;       # of fdcore
  cuda @2 :Text;          # what the driver can do, as 13.0
  driver @3 :Text;        # the driver's own version
  rdma @4 :Bool;
  tasks @5 :UInt32;       # client processes that are attached
  waiting @6 :UInt32;     # requests in the queue
  gpus @7 :List(Gpu);
  draining @8 :Bool;      # nothing new is granted
  since @9 :Float64;      # when it began; seconds since 1970
  now @10 :Float64;       # its clock
  ending @11 :UInt32;     # leases whose programs are over, and that are free in a moment
}

# One of health's.
struct Check {
  state @0 :Text;         # PASS, MARGINAL, FAIL
  name @1 :Text;
  found @2 :Text;
  cure @3 :Text;
}

struct Grant {
  lease @0 :Lease;
  id @1 :Data;            # 16 bytes
  secret @2 :Data;        # 32 bytes: proves the lease on data connections
  slices @3 :List(Slice);
  struct Slice {
    ordinal @0 :UInt32;
    memory @1 :UInt64;
    name @2 :Text;
    size @3 :UInt64;      # of the whole GPU
  }
  unix @4 :Text;          # the data socket, for clients on the same machine
  machine @5 :Text;       # that machine, as its kernel names its current boot
  host @6 :Text;          # of the data port; empty: the host that control answered on
  port @7 :UInt16;
  cpuDevice @8 :Bool;     # the GPUs are the CPU device's
  seal @9 :Bool;          # data connections over tcp have to be encrypted
  rdma @10 :Bool;          # the server has an RDMA device, and UCX
}

# Dropping it, or losing the connection, frees the lease unless a hold or a session
# stands for it.
interface Lease {
  release @0 () -> (result :Result);
  struct Result {
    union {
      error @0 :Error;
      ok @1 :Void;
    }
  }
}
