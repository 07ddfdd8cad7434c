// Java's stock HTTP client, which offers h2c with its first request: `java Plain.java URL`.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

class Plain {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (var streamed : new boolean[] {false, true}) {
            var body = "{\"model\":\"fake:normal\",\"prompt\":\"hello\",\"stream\":" + streamed + "}";
            var request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/chat/completions"))
                .header("Authorization", "Bearer devkey")
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            var answer = client.send(request, BodyHandlers.ofString());
            var is_whole = answer.body().contains("word39");
            System.out.println("{\"status\":" + answer.statusCode() + ",\"whole\":" + is_whole + "}");
        }
    }
}
