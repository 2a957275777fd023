package feedback;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectWriter;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.kstream.Window;
import org.apache.kafka.streams.kstream.Windowed;

/** The aggregated event of a closed window, as {@code benchmarks.output} reads it. */
record ClosedWindow(String eventId, String agentId, long count) {

    private static final ObjectWriter WRITER = new ObjectMapper().writerFor(ClosedWindow.class);

    static ClosedWindow of(final Windowed<String> windowed, final long count) {
        final Window window = windowed.window();
        final long size = window.end() - window.start();
        return new ClosedWindow(windowed.key() + ":" + window.start() + ":" + size + ":0", windowed.key(), count);
    }

    static Serde<ClosedWindow> serde() {
        return Serdes.serdeFrom(
            (topic, window) -> {
                try {
                    return WRITER.writeValueAsBytes(window);
                } catch (final JsonProcessingException error) {
                    throw new SerializationException(error);
                }
            },
            (topic, json) -> {
                throw new UnsupportedOperationException("only written");
            });
    }
}
