import com.amazonaws.services.dynamodbv2.AcquireLockOptions;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBLockClient;
import com.amazonaws.services.dynamodbv2.AmazonDynamoDBLockClientOptions;
import com.amazonaws.services.dynamodbv2.CreateDynamoDBTableOptions;
import com.amazonaws.services.dynamodbv2.LockItem;
import com.amazonaws.services.dynamodbv2.ReleaseLockOptions;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.http.apache.ApacheHttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.dynamodb.DynamoDbClient;
import software.amazon.awssdk.services.dynamodb.model.ProvisionedThroughput;

/** The driver of the awslabs client, com.amazonaws:dynamodb-lock-client. bench/driver/main.go documents the protocol. */
public final class Driver {
  private static final String SETTINGS = System.getenv("PEER");
  private static final String KEY = "key";
  private static final long LEASE_MS = number("lease_ms");
  private static final long POLL_MS = number("poll_ms");
  private static final boolean WATCH = SETTINGS.matches(".*\"watch\":\\s*true.*");
  private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);
  private static final ExecutorService POOL = Executors.newCachedThreadPool(r -> {
    Thread thread = new Thread(r);
    thread.setDaemon(true);
    return thread;
  });

  private static String setting(String name, String value) {
    Matcher m = Pattern.compile("\"" + name + "\":\\s*" + value).matcher(SETTINGS);
    if (!m.find()) {
      throw new IllegalArgumentException("the settings have no " + name);
    }
    return m.group(1);
  }

  private static long number(String name) {
    return Long.parseLong(setting(name, "(\\d+)"));
  }

  private static synchronized void write(String line) {
    OUT.println(line);
    OUT.flush();
  }

  private static String quoted(String text) {
    return "\"" + text.replace("\\", "\\\\").replace("\"", "\\\"").replaceAll("\\p{Cntrl}", " ") + "\"";
  }

  /** A client and the lock that it holds. */
  private static final class Slot {
    final int number;
    final String name;
    final DynamoDbClient db;
    final AmazonDynamoDBLockClient client;
    LockItem lock;
    String belief; // null unless one lasts
    long from;
    long sure; // when the library last said that the lock is held
    int count;

    Slot(int number) {
      this.number = number;
      name = setting("name", "\"([^\"]*)\"") + "/" + number;
      db = DynamoDbClient.builder().region(Region.US_EAST_1).endpointOverride(URI.create(setting("endpoint", "\"([^\"]*)\"")))
          .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create("test", "test")))
          .httpClientBuilder(ApacheHttpClient.builder()).build();
      var options = AmazonDynamoDBLockClientOptions.builder(db, setting("table", "\"([^\"]*)\"")).withCreateHeartbeatBackgroundThread(true);
      if (LEASE_MS != 0) { // heartbeats keep their ratio to the lease: 5 s to 20 s
        options.withTimeUnit(TimeUnit.MILLISECONDS).withLeaseDuration(LEASE_MS).withHeartbeatPeriod(LEASE_MS / 4);
      }
      client = new AmazonDynamoDBLockClient(options.build());
    }

    void setup() {
      AmazonDynamoDBLockClient.createLockTableInDynamoDB(CreateDynamoDBTableOptions
          .builder(db, ProvisionedThroughput.builder().readCapacityUnits(1000L).writeCapacityUnits(1000L).build(), setting("table", "\"([^\"]*)\""))
          .withPartitionKeyName(KEY).build());
    }

    void acquire(String name, long waitMs) throws Exception {
      var options = AcquireLockOptions.builder(name).withTimeUnit(TimeUnit.MILLISECONDS).withAdditionalTimeToWaitForLock(waitMs);
      if (POLL_MS != 0) {
        options.withRefreshPeriod(POLL_MS);
      }
      LockItem got = client.acquireLock(options.build());
      synchronized (this) {
        lock = got;
        from = sure = System.nanoTime();
        count++;
        belief = "{\"t\":\"belief\",\"client\":" + quoted(this.name) + ",\"lock\":" + quoted(name) + ",\"lease\":" + quoted(this.name + "/" + count)
            + ",\"fence\":0,\"from\":" + from + ",\"until\":";
      }
      if (WATCH) {
        POOL.execute(() -> watch(got));
      }
    }

    void release() {
      long began = System.nanoTime();
      LockItem item;
      synchronized (this) {
        end(began);
        item = lock;
        lock = null;
      }
      // Not best effort, which would hide errors.
      if (!client.releaseLock(ReleaseLockOptions.builder(item).withBestEffort(false).build())) {
        throw new IllegalStateException("the lock was not released: it is not held");
      }
    }

    boolean held(LockItem item) {
      boolean held = item != null && !item.isExpired();
      synchronized (this) {
        if (item == null || item != lock) {
          return false;
        }
        long now = System.nanoTime();
        if (held) {
          sure = now;
        } else if (belief != null) {
          write("{\"t\":\"lost\",\"client\":" + number + ",\"at\":" + now + "}");
          end(sure);
        }
      }
      return held;
    }

    void end(long at) {
      if (belief != null) {
        write(belief + Math.max(at, from + 1) + "}");
        belief = null;
      }
    }

    void watch(LockItem item) {
      try {
        while (held(item)) {
          Thread.sleep(10);
        }
      } catch (InterruptedException e) {
        Thread.currentThread().interrupt();
      }
    }

    void command(String[] words) {
      long began = System.nanoTime();
      boolean ok = true;
      String error = "";
      try {
        switch (words[2]) {
          case "setup" -> setup();
          case "acquire" -> acquire(words[3], Long.parseLong(words[4]));
          case "release" -> release();
          case "held" -> ok = held(lock);
          default -> throw new IllegalArgumentException("there is no command " + words[2]);
        }
      } catch (Exception e) {
        ok = false;
        error = ",\"error\":" + quoted(e.getClass().getSimpleName() + ": " + e.getMessage());
      }
      write("{\"id\":" + quoted(words[0]) + ",\"ok\":" + ok + ",\"began\":" + began + ",\"ended\":" + System.nanoTime() + error + "}");
    }
  }

  public static void main(String[] args) throws Exception {
    Slot[] slots = new Slot[(int) number("clients")];
    for (int i = 0; i < slots.length; i++) {
      slots[i] = new Slot(i);
    }
    var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null && !line.equals("exit"); line = in.readLine()) {
      String[] words = line.split(" ");
      POOL.execute(() -> slots[Integer.parseInt(words[1])].command(words));
    }
    Runtime.getRuntime().halt(0);
  }
}
