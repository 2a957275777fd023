package feedback;

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.LogAndContinueExceptionHandler;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.EmitStrategy;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Counts feedback events by agent and tumbling window, and publishes each window once it has closed.
 *
 * <p>Reads the same {@code FEEDBACK_*} environment as ours; on the command line {@code --threads N} and
 * {@code --guarantee at_least_once} or {@code exactly_once_v2}. Events that come too late are dropped, as Kafka Streams
 * does.
 *
 * <p>What was tried, with 1,000,000 events and 10,000 agents, one thread, at least once. Two cores were busy with other
 * work, so what is compared is the processor time of the process, without the JIT compiler's, start included. Three at
 * the same time over the same input:
 *
 * <ul>
 *   <li>emit on window close, cached: 16.9 s, and done first. This is what is kept.
 *   <li>{@code suppress(untilWindowCloses)}, cached: 19.6 s, 1.16 times that; right as well. Its buffer has a changelog
 *       of its own.
 *   <li>emit on window close, not cached: 23.0 s, 1.36 times that (one after the other: 14.1 to 18.7 s against 14.9 to
 *       15.6 s). Each event goes to RocksDB and to the changelog, so the broker has more to do as well.
 * </ul>
 *
 * <p>Nothing beyond the noise (14 to 19 s): {@code lz4} and larger batches for the producer, {@code max.poll.records}
 * with {@code buffered.records.per.partition}, the parallel collector, Jackson's streaming parser instead of its data
 * binding. The JIT compiler takes another 10 to 20 s of a run, so a million events say little of the rate that it has
 * once it is warm.
 */
public final class WindowCounts {

    private static final String STORE = "feedback-windows";

    /**
     * A window that has gone from the store before it was emitted is lost without a word. By default the store keeps
     * the size and the grace: it would lose those that are still open when a partition's time jumps.
     */
    private static final Duration KEPT = Duration.ofDays(1);

    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(20);

    private WindowCounts() {}

    static Topology topology(final String prefix, final Duration size, final Duration grace) {
        final var builder = new StreamsBuilder();
        final var feedback = Consumed.with(Serdes.String(), Feedback.serde())
            .withTimestampExtractor((record, partitionTime) -> ((Feedback) record.value()).timestamp());
        final var counts = Materialized.<String, Long, WindowStore<Bytes, byte[]>>as(STORE)
            .withKeySerde(Serdes.String())
            .withValueSerde(Serdes.Long())
            .withRetention(KEPT);
        builder.stream(prefix + "feedback", feedback)
            .groupByKey()  // the key is the agent's id: nothing to repartition
            .windowedBy(TimeWindows.ofSizeAndGrace(size, grace))
            .emitStrategy(EmitStrategy.onWindowClose())
            .count(counts)
            .toStream()
            .map((window, count) -> KeyValue.pair(window.key(), ClosedWindow.of(window, count)))
            .to(prefix + "feedback-aggregates", Produced.with(Serdes.String(), ClosedWindow.serde()));
        return builder.build();
    }

    static Properties configuration(final Map<String, String> environment, final List<String> arguments) {
        final var properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, environment.get("FEEDBACK_APP_ID"));
        properties.put(
            StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, environment.get("FEEDBACK_BROKER_URL").replace("kafka://", ""));
        properties.put(StreamsConfig.STATE_DIR_CONFIG, environment.get("FEEDBACK_DATA_DIR"));
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        properties.put(
            StreamsConfig.DESERIALIZATION_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueExceptionHandler.class);

        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, option(arguments, "--threads", "1"));
        final String guarantee = option(arguments, "--guarantee", StreamsConfig.AT_LEAST_ONCE);
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, guarantee);
        if (guarantee.equals(StreamsConfig.AT_LEAST_ONCE)) {
            // Often enough for the committed offsets to show how far it has counted (the default is 30 s). Exactly-once
            // commits every 100 ms by default.
            properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1_000);
        }

        // By default it looks for closed windows once a second at most, and only when a record comes: windows that the
        // last record of a backlog makes due would wait for the next one.
        properties.put(StreamsConfig.InternalConfig.EMIT_INTERVAL_MS_KSTREAMS_WINDOWED_AGGREGATION, 0L);

        properties.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
        properties.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 128 * 1024);
        return properties;
    }

    private static String option(final List<String> arguments, final String name, final String otherwise) {
        final int at = arguments.indexOf(name);
        return at < 0 ? otherwise : arguments.get(at + 1);
    }

    public static void main(final String[] arguments) throws InterruptedException {
        final Map<String, String> environment = System.getenv();
        final Topology topology = topology(
            environment.getOrDefault("FEEDBACK_TOPIC_PREFIX", ""),
            Duration.ofMillis(Long.parseLong(environment.get("FEEDBACK_BATCH_TIME_MS"))),
            Duration.ofMillis(Long.parseLong(environment.get("FEEDBACK_GRACE_MS"))));
        final var streams = new KafkaStreams(topology, configuration(environment, List.of(arguments)));
        final var ended = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now.hasCompletedShutdown()) {
                ended.countDown();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(CLOSE_TIMEOUT), "close"));
        streams.start();
        ended.await();
        if (streams.state() == KafkaStreams.State.ERROR) {
            System.exit(1);
        }
    }
}
