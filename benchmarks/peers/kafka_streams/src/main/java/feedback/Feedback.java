package feedback;

import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** What is read of a feedback event; its timestamp is in milliseconds. */
record Feedback(String agentId, long timestamp) {

    private static final ObjectReader READER = JsonMapper.builder()
        .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
        .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES)
        .build()
        .readerFor(Feedback.class);

    static Serde<Feedback> serde() {
        return Serdes.serdeFrom(
            (topic, event) -> {
                throw new UnsupportedOperationException("only read");
            },
            (topic, json) -> {
                try {
                    return READER.readValue(json);
                } catch (final IOException error) {
                    throw new SerializationException("not a feedback event", error);
                }
            });
    }
}
